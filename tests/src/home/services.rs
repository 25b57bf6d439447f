//! What hosts of a home listen with: a router's page, a printer, a metadata server, and whatever
//! else is open on a seller's host.
//!
//! # Theory of operation
//! A thread asks all sockets of a host in turn, answers whoever says something, and counts what had
//! a marker in it by row and socket.
//!
//! # Limits
//! One caller at a time; a caller that says nothing is hung up on.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::marker::{self, Row};
use crate::lab::Host;

/// How long a caller may take to say something.
const REQUEST_MAX: Duration = Duration::from_millis(200);
/// Pause of a host that nobody calls.
const PAUSE: Duration = Duration::from_millis(2);
/// What everybody gets.
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nadmin\n";

type Heard = Arc<Mutex<BTreeMap<(Row, String), u64>>>;

/// Listening sockets of one host; closed when dropped.
#[derive(Debug)]
pub struct Services {
    heard: Heard,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Open {
    name: String,
    udp: Vec<(UdpSocket, String)>,
    tcp: Vec<(TcpListener, String)>,
}

impl Services {
    /// Listens by UDP and TCP at each address and port.
    ///
    /// # Errors
    /// When one is taken.
    pub fn open(host: &Host, ips: &[IpAddr], ports: &[u16]) -> Result<Self> {
        let mut open = Open { name: host.name().to_owned(), udp: Vec::new(), tcp: Vec::new() };
        for at in ips.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))) {
            let (udp, tcp) = host
                .within(|| {
                    let (udp, tcp) = (UdpSocket::bind(at)?, TcpListener::bind(at)?);
                    udp.set_nonblocking(true)?;
                    tcp.set_nonblocking(true)?;
                    udp.set_broadcast(true)?;
                    Ok((udp, tcp))
                })
                .with_context(|| format!("listen at {at} of {}", host.name()))?;
            open.udp.push((udp, format!("service udp {at}")));
            open.tcp.push((tcp, format!("service tcp {at}")));
        }
        let (heard, stop) = (Heard::default(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if !open.serve(&heard) {
                        thread::sleep(PAUSE);
                    }
                }
            }
        });
        Ok(Self { heard, stop, thread: Some(thread) })
    }

    /// Returns what was said since it was last asked, by row and place.
    pub fn take(&self) -> BTreeMap<(Row, String), u64> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Open {
    /// Serves whoever calls; tells whether somebody did.
    fn serve(&self, heard: &Heard) -> bool {
        let mut busy = false;
        let mut buffer = [0; 2048];
        for (socket, what) in &self.udp {
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                busy = true;
                self.note(heard, &buffer[..len], what);
                // An answer that cannot be given was not to be given.
                let _ = socket.send_to(b"yes", from);
            }
        }
        for (socket, what) in &self.tcp {
            while let Ok((stream, _)) = socket.accept() {
                busy = true;
                if let Ok(len) = answer(stream, &mut buffer) {
                    self.note(heard, &buffer[..len], what);
                }
            }
        }
        busy
    }

    fn note(&self, heard: &Heard, bytes: &[u8], what: &str) {
        if let Some((row, _)) = marker::find(bytes) {
            let place = format!("{} {what}", self.name);
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            *heard.entry((row, place)).or_default() += 1;
        }
    }
}

fn answer(mut stream: TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_MAX))?;
    let len = stream.read(buffer)?;
    let _ = stream.write_all(PAGE);
    Ok(len)
}
