//! Who sees what an attacker sends: every frame on every interface of every host.
//!
//! # Theory of operation
//! A thread in each host's namespace reads one packet socket bound to no interface, so that it
//! hears all of them, also those that come later. A frame is looked at and forgotten: counted is
//! one that bears a [`marker`], and one that is from the attacker's own MAC address or from or to
//! its segment's addresses, whatever else it holds. Where that is right (the buyer's own interface
//! on the segment, the other guests) is *inside*, everywhere else *outside*.
//!
//! # Limits
//! A frame that the kernel dropped before it was read is an error at the end. What a NAT has given
//! another address is known by its marker alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, recvfrom};

use super::frames::Station;
use super::marker::{self, By, Row};
use super::packet::{ARP, IPV4, IPV6, Mac};
use crate::lab::Host;
use crate::sys;

/// Kernel buffer of each namespace: what a burst may bring while its thread is not running.
const SOCKET_BUFFER_LEN: i32 = 64 << 20;
/// Longest frame there is: a super-frame with its header, rounded up.
const FRAME_LEN_MAX: usize = 68 << 10;
/// Silence after which everything was heard.
const SILENCE_AFTER: Duration = Duration::from_millis(50);
/// Longest wait for that silence.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Frames that are shown in full when they are where they must not be.
const EXAMPLES_MAX: usize = 8;
/// Bytes that are shown of each.
const EXAMPLE_LEN: usize = 96;

/// By what a guest's frames are known, if not by their marker.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// MAC addresses that are the guest's alone.
    pub macs: Vec<Mac>,
    /// The segment's /24, and its /64.
    pub segment: (Ipv4Addr, Ipv6Addr),
    /// Addresses of the buyer's computer, if what it sends and gets by its other interfaces is its
    /// own doing: without a gateway it looks for guests by its default route.
    pub buyer: Vec<IpAddr>,
}

impl Suspect {
    /// Suspects a guest and whatever has addresses of its segment.
    #[must_use]
    pub fn of(guest: &Station) -> Self {
        let segment = (guest.ipv4, guest.ipv6);
        Self { macs: vec![guest.mac], segment, buyer: Vec::new() }
    }

    /// Tells whether a frame is the guest's, or of its segment.
    #[must_use]
    pub fn is_in(&self, frame: &[u8]) -> bool {
        let from = frame.get(6..12).is_some_and(|mac| self.macs.iter().any(|own| own == mac));
        from || self.is_addressed(frame)
    }

    /// Tells whether a packet is from or to the buyer's computer.
    fn is_buyers(&self, frame: &[u8]) -> bool {
        let holds = |at: usize, octets: &[u8]| frame.get(at..at + octets.len()) == Some(octets);
        self.buyer.iter().any(|ip| match ip {
            IpAddr::V4(ip) => [26, 30].iter().any(|at| holds(*at, &ip.octets())),
            IpAddr::V6(ip) => [22, 38].iter().any(|at| holds(*at, &ip.octets())),
        })
    }

    fn is_addressed(&self, frame: &[u8]) -> bool {
        let word = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let mut at = 12;
        while let Some(0x8100 | 0x88a8 | 0x9100 | 0x9200) = word(at) {
            at += 4;
        }
        let [four, six] = [&self.segment.0.octets()[..3], &self.segment.1.octets()[..8]];
        let holds = |offset: usize, prefix: &[u8]| {
            frame.get(at + 2 + offset..).is_some_and(|rest| rest.starts_with(prefix))
        };
        match word(at) {
            Some(IPV4) => holds(12, four) || holds(16, four),
            Some(ARP) => holds(14, four) || holds(24, four),
            Some(IPV6) => holds(8, six) || holds(24, six),
            _ => false,
        }
    }
}

/// Hosts and their interfaces that a guest may be seen at.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Its own cable: what is there tells nothing.
    pub cable: Vec<(String, String)>,
    /// Where what the segment carries arrives.
    pub inside: Vec<(String, String)>,
}

/// What was seen of an attacker.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    /// Marked frames, and what services heard, where a guest's must not be: `seller br0`.
    pub outside: BTreeMap<(Row, String), u64>,
    /// Frames there without a marker, but from the guest or of its segment.
    pub traces: BTreeMap<String, u64>,
    /// What of these the buyer's computer has sent or got by another way, if that is not counted.
    pub buyers: BTreeMap<String, u64>,
    /// Marked frames where they may be.
    pub inside: BTreeMap<(Row, By, String), u64>,
    /// The first of those outside, in hexadecimal digits.
    pub examples: Vec<String>,
    /// Frames that were looked at.
    pub frames: u64,
    lost: u64,
}

impl Sightings {
    /// Returns how many of a guest's frames were where they must not be.
    #[must_use]
    pub fn escaped(&self) -> u64 {
        self.outside.values().chain(self.traces.values()).sum()
    }

    /// Returns how many marked frames were where they may be.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.inside.values().sum()
    }

    /// Returns the rows that were seen at places that begin with a word.
    #[must_use]
    pub fn rows_at(&self, place: &str) -> BTreeSet<Row> {
        let at = self.outside.keys().filter(|(_, at)| at.starts_with(place));
        at.map(|(row, _)| *row).collect()
    }

    /// Returns frames that a segment must not carry and that were delivered as they were made.
    ///
    /// What goes to groups (E02, E08) and to the buyer (E11) may be delivered, and so may what dice
    /// have changed into something harmless.
    #[must_use]
    pub fn forbidden_inside(&self) -> Vec<String> {
        let may = |row: Row| row.is_legal() || [*b"E02", *b"E08", *b"E11"].contains(&row.0);
        let wrong = self.inside.iter().filter(|((row, by, _), _)| !may(*row) && *by != By::Dice);
        wrong.map(|((row, by, place), count)| format!("{row} {by:?} at {place}: {count}")).collect()
    }

    /// Adds what another saw.
    pub fn add(&mut self, other: Self) {
        for (key, count) in other.outside {
            *self.outside.entry(key).or_default() += count;
        }
        for (key, count) in other.traces {
            *self.traces.entry(key).or_default() += count;
        }
        for (key, count) in other.buyers {
            *self.buyers.entry(key).or_default() += count;
        }
        for (key, count) in other.inside {
            *self.inside.entry(key).or_default() += count;
        }
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.into_iter().take(room));
        self.frames += other.frames;
        self.lost += other.lost;
    }

    /// Says it in a few lines: rows and counts by place.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut places = BTreeMap::<&str, BTreeMap<Row, u64>>::new();
        for ((row, place), count) in &self.outside {
            *places.entry(place).or_default().entry(*row).or_default() += count;
        }
        let mut text = format!(
            "{} frames looked at, {} outside, {} inside",
            self.frames,
            self.escaped(),
            self.carried()
        );
        // Writing to a string does not fail.
        for (place, rows) in places {
            let rows: Vec<_> = rows.iter().map(|(row, count)| format!("{row}×{count}")).collect();
            let _ = write!(text, "\n  {place}: {}", rows.join(" "));
        }
        for (place, count) in &self.traces {
            let _ = write!(text, "\n  {place}: {count} without a marker");
        }
        for (place, count) in &self.buyers {
            let _ = write!(text, "\n  {place}: {count} of the buyer's own computer, not counted");
        }
        for example in &self.examples {
            let _ = write!(text, "\n  {example}");
        }
        text
    }
}

/// A watch that is being kept.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    eyes: Vec<JoinHandle<io::Result<Sightings>>>,
}

/// What one thread needs.
struct Eye {
    host: Host,
    socket: OwnedFd,
    suspect: Suspect,
    places: Places,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// Starts to watch hosts for a guest's frames where they must not be, and where they may.
    ///
    /// # Errors
    /// When a namespace or packet socket is refused.
    pub fn keep(hosts: &[Host], suspect: &Suspect, places: &Places) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut eyes = Vec::new();
        for host in hosts {
            let socket = host
                .within(|| sys::packet_socket(0, SOCKET_BUFFER_LEN, SILENCE_AFTER))
                .with_context(|| format!("watch {}", host.name()))?;
            let eye = Eye {
                host: host.clone(),
                socket,
                suspect: suspect.clone(),
                places: places.clone(),
                stop: Arc::clone(&stop),
            };
            let builder = thread::Builder::new().name("watch".into());
            eyes.push(builder.spawn(move || eye.host.clone().within(|| eye.look()))?);
        }
        Ok(Self { stop, eyes })
    }

    /// Ends when the wires are silent, and tells what was seen.
    ///
    /// # Errors
    /// When a frame was missed: then nothing is proved.
    pub fn finish(mut self) -> Result<Sightings> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Sightings::default();
        for eye in std::mem::take(&mut self.eyes) {
            all.add(eye.join().map_err(|_| anyhow::anyhow!("a watcher panicked"))??);
        }
        ensure!(all.lost == 0, "the watch missed {} frames", all.lost);
        Ok(all)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Eye {
    fn look(&self) -> io::Result<Sightings> {
        let mut seen = Sightings::default();
        let mut names = BTreeMap::new();
        let mut buffer = vec![0; FRAME_LEN_MAX];
        let mut stop_at = None;
        loop {
            let heard = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer);
            if self.stop.load(Ordering::Relaxed) {
                let until = *stop_at.get_or_insert_with(|| Instant::now() + DRAIN_MAX);
                if heard == Err(Errno::EAGAIN) || Instant::now() > until {
                    break;
                }
            }
            match heard {
                Ok((len, from)) => {
                    seen.frames += 1;
                    let frame = &buffer[..len];
                    let marked = marker::find(frame);
                    if marked.is_some() || self.suspect.is_in(frame) {
                        let index = from.map_or(0, |from| from.ifindex());
                        let name = names.entry(index).or_insert_with(|| interface_name(index));
                        self.note(&mut seen, frame, marked, name);
                    }
                }
                // An interface went down or away: the socket hears the others on.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN | Errno::ENXIO) => {}
                Err(error) => return Err(error.into()),
            }
        }
        seen.lost = u64::from(sys::packet_drops(&self.socket)?);
        Ok(seen)
    }

    fn note(&self, seen: &mut Sightings, frame: &[u8], marked: Option<(Row, By)>, name: &str) {
        let place = format!("{} {name}", self.host.name());
        let is_of = |places: &[(String, String)]| {
            places.iter().any(|(host, own)| host == self.host.name() && own == name)
        };
        if is_of(&self.places.cable) {
            return;
        }
        let is_inside = is_of(&self.places.inside);
        match marked {
            Some((row, by)) if is_inside => {
                *seen.inside.entry((row, by, place)).or_default() += 1;
            }
            None if is_inside => {}
            _ if self.suspect.is_buyers(frame) => *seen.buyers.entry(place).or_default() += 1,
            _ => {
                if seen.examples.len() < EXAMPLES_MAX {
                    let shown = &frame[..frame.len().min(EXAMPLE_LEN)];
                    let digits: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
                    seen.examples.push(format!("{place}: {digits}"));
                }
                match marked {
                    Some((row, _)) => *seen.outside.entry((row, place)).or_default() += 1,
                    None => *seen.traces.entry(place).or_default() += 1,
                }
            }
        }
    }
}

/// Returns the name of an interface of the calling thread's namespace.
fn interface_name(index: usize) -> String {
    let all = nix::net::if_::if_nameindex();
    let found = all.ok().and_then(|all| {
        let one = all.iter().find(|one| one.index() as usize == index)?;
        Some(one.name().to_string_lossy().into_owned())
    });
    found.unwrap_or_else(|| format!("#{index}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::packet::{arp, ethernet, ip, udp};

    #[test]
    fn a_guests_frames_are_known_without_a_marker() {
        let guest = Station {
            mac: [2, 0, 0, 0, 0, 10],
            ipv4: [10, 77, 0, 10].into(),
            ipv6: "fd3a::a".parse().expect("an address"),
        };
        let suspect = Suspect::of(&guest);
        let (near, far) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let packet = |src: &str, dst: &str| {
            let [src, dst] = [src, dst].map(|ip| ip.parse().expect("an address"));
            ip(src, dst, 17, &udp(src, dst, [1, 2], b""))
        };
        let tag = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        let four = |src, dst| ethernet(near, far, IPV4, &packet(src, dst));
        let six = |src, dst| ethernet(near, far, IPV6, &packet(src, dst));
        for frame in [
            ethernet(near, guest.mac, 0x88b5, b""),
            four("10.77.0.99", "8.8.8.8"),
            four("8.8.8.8", "10.77.0.1"),
            tag(tag(four("10.77.0.10", "8.8.8.8"))),
            six("fd3a::1", "2000::1"),
            six("2000::1", "fd3a::1"),
            ethernet(near, far, ARP, &arp(1, (far, [1; 4].into()), (near, [10, 77, 0, 1].into()))),
        ] {
            assert!(suspect.is_in(&frame), "{frame:02x?}");
        }
        for frame in [
            Vec::new(),
            vec![0; 13],
            four("10.78.0.99", "8.8.8.8"),
            six("fd3b::1", "2000::1"),
            ethernet(guest.mac, far, 0x88b5, b""),
        ] {
            assert!(!suspect.is_in(&frame), "{frame:02x?}");
        }
        let buyer = vec![[10, 77, 0, 2].into(), "fd3a::2".parse().expect("an address")];
        let suspect = Suspect { buyer, ..suspect };
        for frame in [four("10.77.0.2", "10.77.0.10"), six("fd3a::a", "fd3a::2")] {
            assert!(suspect.is_buyers(&frame), "{frame:02x?}");
        }
        for frame in [four("10.77.0.10", "8.8.8.8"), six("fd3a::a", "fd3a::1"), Vec::new()] {
            assert!(!suspect.is_buyers(&frame), "{frame:02x?}");
        }
    }
}
