//! Others who make things worse: a host's own daemons that take hold of every new interface, and a
//! neighbour who puts himself between the seller and his router.
//!
//! # Theory of operation
//! Each is a thread that looks or lies again and again until it is dropped.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{MsgFlags, send};

use super::packet::{ARP, arp, ethernet};
use super::{Home, lan4, mac_of};
use crate::lab::Host;
use crate::sys;

/// How often a grabber looks: more often than anybody sets an interface up.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// How often a lie about an address is repeated.
const LIE_INTERVAL: Duration = Duration::from_millis(100);

/// Puts every interface that turns up in a host into a bridge, and takes it into use.
#[derive(Debug)]
pub struct Grabber {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Grabber {
    /// Starts; what is there already is left alone.
    ///
    /// # Errors
    /// When the host's interfaces cannot be listed.
    pub fn start(host: &Host, bridge: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut known: BTreeSet<_> = host.interfaces()?.into_iter().collect();
        let thread = thread::spawn({
            let (stop, host, bridge) = (Arc::clone(&stop), host.clone(), bridge.to_owned());
            move || {
                let mut grabbed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for name in host.interfaces().unwrap_or_default() {
                        if known.insert(name.clone()) {
                            // It may be gone again: then it was there all the same.
                            let _ = host.run(&format!("ip link set {name} master {bridge} up"));
                            grabbed.push(name);
                        }
                    }
                    thread::sleep(LOOK_INTERVAL);
                }
                grabbed
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops it and returns what it got hold of.
    #[must_use]
    pub fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let grabbed = self.thread.take().and_then(|thread| thread.join().ok());
        grabbed.unwrap_or_else(|| vec!["?".to_owned()])
    }
}

impl Drop for Grabber {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A neighbour who tells the seller that he is the router and the router that he is the seller,
/// and hands on what he gets.
#[derive(Debug)]
pub struct Middle {
    /// Where the neighbour is.
    pub ipv4: Ipv4Addr,
    /// Where the seller is.
    pub seller: Ipv4Addr,
    stop: Arc<AtomicBool>,
}

impl Middle {
    /// Starts to lie.
    ///
    /// # Errors
    /// When there is no packet socket.
    pub fn between(home: &Home) -> Result<Self> {
        let neighbour = home.neighbour.clone();
        let own = mac_of(&neighbour, "lan0")?;
        neighbour.must("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=1")?;
        let ends =
            [(mac_of(&home.seller, "br0")?, lan4(10)), (mac_of(&home.router, "lan")?, lan4(1))];
        let lie = |to: usize| {
            let message = arp(2, (own, ends[1 - to].1), ends[to]);
            ethernet(ends[to].0, own, ARP, &message)
        };
        let lies = [lie(0), lie(1)];
        let socket = neighbour.within(|| {
            let index = nix::net::if_::if_nametoindex("lan0")?.cast_signed();
            sys::packet_socket(index, 1 << 20, Duration::from_millis(1))
        });
        let socket = socket.context("a packet socket of the neighbour's")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for lie in &lies {
                    let _ = send(socket.as_raw_fd(), lie, MsgFlags::empty());
                }
                thread::sleep(LIE_INTERVAL);
            }
        });
        Ok(Self { ipv4: lan4(20), seller: lan4(10), stop })
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
