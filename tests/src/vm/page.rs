//! The smallest HTTP server: one page, for guests that fetch their system from the buyer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Host;

/// Longest request that is read, in bytes.
const REQUEST_LEN_MAX: usize = 4096;

/// A page that is served, whatever is asked for, until this is dropped.
#[derive(Debug)]
pub struct Page {
    at: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Page {
    /// Serves `text` at an address of a host.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn serve(host: &Host, at: SocketAddr, text: &str) -> Result<Self> {
        let listener = host.within(|| TcpListener::bind(at)).with_context(|| format!("at {at}"))?;
        listener.set_nonblocking(true)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, text) = (Arc::clone(&ended), text.to_owned());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A guest that hangs up early has its reasons.
                    Ok((stream, _)) => drop(answer(stream, &text)),
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Self { at, ended })
    }

    /// Returns what a guest asks for.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hello.txt", self.at)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream, text: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 512];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_LEN_MAX {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        request.extend(&buffer[..len]);
    }
    let body = if request.starts_with(b"HEAD") { "" } else { text };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())
}
