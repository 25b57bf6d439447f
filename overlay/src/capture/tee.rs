//! The data plane's side of captures: looks at frames that pass, and sends copies.
//!
//! # Theory of operation
//! Both moving threads call [`Tee::copy`] with each frame at its attachment: as the guest hands it
//! over, before anything is decided of it, and as the guest takes it. With nobody to copy for, that
//! is one relaxed load. A copy that its reader has no room for is left out and counted; the count
//! travels with the next record, or alone by the control thread's [`Tee::tend`].
//!
//! # Limits
//! [`CAPTURES_MAX`] at once; further ones are refused. A reader that has gone is noticed within a
//! turn of the control thread.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, sendmsg};
use overlay_proto::control::{Detail, LocalPort};
use vde_switch::mac::MacAddr;

use super::{HEADERS_LEN_MAX, Record, headers_len};
use crate::clock;

/// Most captures of a lease at once: each costs its port a copy of every frame.
pub const CAPTURES_MAX: usize = 4;

/// Which way a frame passed its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the attachment into the segment; pcapng calls it inbound.
    FromGuest,
    /// From the segment to the attachment; pcapng calls it outbound.
    ToGuest,
}

/// All captures of a lease.
#[derive(Debug, Default)]
pub(crate) struct Tee {
    is_used: AtomicBool,
    probes: ArcSwap<Vec<Arc<Probe>>>,
    /// Held by whoever changes the list; who copies reads it without.
    changes: Mutex<()>,
}

/// One capture.
#[derive(Debug)]
struct Probe {
    port: LocalPort,
    detail: Detail,
    station: Option<MacAddr>,
    socket: OwnedFd,
    left_out: AtomicU64,
    /// How many of them the reader knows of.
    told: AtomicU64,
}

impl Tee {
    /// Begins a capture; says no when there are [`CAPTURES_MAX`] already.
    ///
    /// The first record, without a frame, tells the reader that it has begun.
    pub(crate) fn begin(
        &self,
        port: LocalPort,
        detail: Detail,
        station: Option<MacAddr>,
        socket: OwnedFd,
    ) -> bool {
        self.tend();
        let _turn = self.turn();
        let mut probes = Vec::clone(&self.probes.load());
        if probes.len() >= CAPTURES_MAX {
            return false;
        }
        let (left_out, told) = (AtomicU64::new(0), AtomicU64::new(0));
        let probe = Probe { port, detail, station, socket, left_out, told };
        probe.send(None, 0, &[]);
        probes.push(Arc::new(probe));
        self.publish(probes);
        true
    }

    /// Copies a frame, in parts, to whoever asked for it.
    pub(crate) fn copy(&self, port: LocalPort, way: Way, parts: &[IoSlice<'_>]) {
        if self.is_used.load(Ordering::Relaxed) {
            self.copy_to_probes(port, way, parts);
        }
    }

    #[cold]
    fn copy_to_probes(&self, port: LocalPort, way: Way, parts: &[IoSlice<'_>]) {
        let mut start = [0; HEADERS_LEN_MAX];
        let mut start_len = 0;
        for part in parts {
            let len = part.len().min(start.len() - start_len);
            start[start_len..start_len + len].copy_from_slice(&part[..len]);
            start_len += len;
        }
        let start = &start[..start_len];
        let frame_len = parts.iter().map(|part| part.len()).sum();
        for probe in self.probes.load().iter().filter(|probe| probe.port == port) {
            if !probe.station.is_none_or(|station| concerns(start, station, way)) {
                continue;
            }
            match probe.detail {
                Detail::Headers => {
                    let headers = IoSlice::new(&start[..headers_len(start)]);
                    probe.send(Some(way), frame_len, &[headers]);
                }
                Detail::Frames => probe.send(Some(way), frame_len, parts),
            }
        }
    }

    /// Ends captures whose readers have gone, and tells the others what they have missed.
    pub(crate) fn tend(&self) {
        if !self.is_used.load(Ordering::Relaxed) {
            return;
        }
        let _turn = self.turn();
        let probes = self.probes.load_full();
        let left: Vec<_> = probes.iter().filter(|probe| !probe.is_closed()).cloned().collect();
        for probe in &left {
            if probe.told.load(Ordering::Relaxed) != probe.left_out.load(Ordering::Relaxed) {
                probe.send(None, 0, &[]);
            }
        }
        if left.len() < probes.len() {
            self.publish(left);
        }
    }

    /// Ends all captures of a port.
    pub(crate) fn end(&self, port: LocalPort) {
        let _turn = self.turn();
        let mut probes = Vec::clone(&self.probes.load());
        probes.retain(|probe| probe.port != port);
        self.publish(probes);
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, probes: Vec<Arc<Probe>>) {
        self.is_used.store(!probes.is_empty(), Ordering::Relaxed);
        self.probes.store(Arc::new(probes));
    }
}

impl Probe {
    fn send(&self, way: Option<Way>, frame_len: usize, parts: &[IoSlice<'_>]) {
        let left_out = self.left_out.load(Ordering::Relaxed);
        let unix_ns = u64::try_from(clock::unix_time().as_nanos()).unwrap_or(u64::MAX);
        let frame_len = u32::try_from(frame_len).unwrap_or(u32::MAX);
        let record = Record { way, frame_len, left_out, unix_ns }.emit();
        let slices: Vec<_> =
            std::iter::once(IoSlice::new(&record)).chain(parts.iter().copied()).collect();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(self.socket.as_raw_fd(), &slices, &[], flags, None) {
            Ok(_) => self.told.store(left_out, Ordering::Relaxed),
            Err(_) if way.is_some() => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {} // told with a later record
        }
    }

    fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        polled.is_ok() && fds[0].revents().is_some_and(|events| !events.is_empty())
    }
}

/// Says whether a frame is between the attachment and a station: group frames of the attachment
/// go to every station, those to it come from one.
fn concerns(frame: &[u8], station: MacAddr, way: Way) -> bool {
    let Some((dst, rest)) = frame.split_first_chunk() else { return false };
    let (dst, src) = (MacAddr(*dst), rest.first_chunk().copied().map(MacAddr));
    dst == station || src == Some(station) || (way == Way::FromGuest && dst.is_group())
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::recv;

    use super::*;
    use crate::capture::pair;

    const PORT: LocalPort = LocalPort::GUEST;
    const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn frame(dst: MacAddr, src: MacAddr, len: usize) -> Vec<u8> {
        let mut frame = [dst.0, src.0].concat();
        frame.resize(len, 0xee);
        frame
    }

    fn next(socket: &OwnedFd) -> Option<(Record, Vec<u8>)> {
        let mut buffer = vec![0; 70_000];
        let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
        Record::parse(&buffer[..len]).map(|(record, bytes)| (record, bytes.to_vec()))
    }

    fn begun(tee: &Tee, detail: Detail, station: Option<MacAddr>) -> OwnedFd {
        let (ours, theirs) = pair().expect("a pair");
        assert!(tee.begin(PORT, detail, station, ours));
        let (hello, bytes) = next(&theirs).expect("a hello");
        assert_eq!((hello.way, bytes.len()), (None, 0));
        theirs
    }

    #[test]
    fn a_capture_has_the_ports_frames_and_payloads_only_if_asked_for() {
        let tee = Tee::default();
        let (short, whole) =
            (begun(&tee, Detail::Headers, None), begun(&tee, Detail::Frames, None));
        let bytes = frame(GUEST, MacAddr([2; 6]), 1000);
        let (a, b) = bytes.split_at(30);
        tee.copy(PORT, Way::ToGuest, &[IoSlice::new(a), IoSlice::new(b)]);
        tee.copy(LocalPort(1), Way::ToGuest, &[IoSlice::new(&bytes)]);
        let (record, shown) = next(&short).expect("a record");
        assert_eq!((record.way, record.frame_len), (Some(Way::ToGuest), 1000));
        assert_eq!(shown, bytes[..14], "nothing is known of this EtherType");
        assert_eq!(next(&whole).expect("a record").1, bytes);
        assert!(next(&short).is_none() && next(&whole).is_none(), "another port's frame");
    }

    #[test]
    fn only_frames_between_the_port_and_a_station_are_its_own() {
        let tee = Tee::default();
        let reader = begun(&tee, Detail::Headers, Some(GUEST));
        let (buyer, other) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 7]));
        for (dst, src, way, shown) in [
            (GUEST, buyer, Way::FromGuest, true),
            (buyer, GUEST, Way::ToGuest, true),
            (MacAddr::BROADCAST, buyer, Way::FromGuest, true),
            (MacAddr::BROADCAST, GUEST, Way::ToGuest, true),
            (other, buyer, Way::FromGuest, false),
            (buyer, other, Way::ToGuest, false),
            (MacAddr::BROADCAST, other, Way::ToGuest, false),
        ] {
            tee.copy(PORT, way, &[IoSlice::new(&frame(dst, src, 60))]);
            assert_eq!(next(&reader).is_some(), shown, "{src} to {dst}");
        }
    }

    #[test]
    fn a_reader_that_does_not_read_misses_records_and_is_told_how_many() {
        let tee = Tee::default();
        let reader = begun(&tee, Detail::Frames, None);
        let bytes = frame(GUEST, MacAddr([2; 6]), 60_000);
        for _ in 0..1000 {
            tee.copy(PORT, Way::ToGuest, &[IoSlice::new(&bytes)]);
        }
        let (mut seen, mut left_out) = (0, 0);
        while let Some((record, _)) = next(&reader) {
            seen += u64::from(record.way.is_some());
            left_out = record.left_out;
        }
        assert!(seen > 0 && seen < 1000, "{seen} records");
        assert_eq!(left_out, 0, "the last record was sent before one was left out");
        tee.tend();
        let (record, _) = next(&reader).expect("a count");
        assert_eq!((record.way, record.left_out), (None, 1000 - seen));
        tee.tend();
        assert!(next(&reader).is_none(), "told once");
    }

    #[test]
    fn captures_are_few_and_end_with_their_readers_or_their_port() {
        let tee = Tee::default();
        let mut readers: Vec<_> =
            (0..CAPTURES_MAX).map(|_| begun(&tee, Detail::Headers, None)).collect();
        let (ours, refused) = pair().expect("a pair");
        assert!(!tee.begin(PORT, Detail::Headers, None, ours));
        assert!(next(&refused).is_none(), "no hello");
        readers.clear();
        tee.tend();
        assert!(!tee.is_used.load(Ordering::Relaxed), "nothing is copied for nobody");
        let reader = begun(&tee, Detail::Headers, None);
        tee.end(PORT);
        let mut byte = [0];
        assert_eq!(recv(reader.as_raw_fd(), &mut byte, MsgFlags::empty()), Ok(0), "its end");
    }
}
