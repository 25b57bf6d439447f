//! What is sealed, as an engine sees it.

use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::control::LocalPort;
use crate::transmit::{Delivered, Sent};
use crate::tunnel::{Handshaken, OUTPUT_LEN_MIN, Opened};

/// Keeps what it is given to seal.
#[derive(Debug)]
struct Glass(Arc<Mutex<Vec<Vec<u8>>>>);

impl Engine for Glass {
    fn is_ready(&self) -> bool {
        true
    }
    fn seal(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        lock(&self.0).push(payload.to_vec());
        out[..payload.len()].copy_from_slice(payload);
        Some(payload.len() + SEAL_LEN)
    }
    fn open(&mut self, _: &[u8], _: u64, _: &mut [u8]) -> Opened {
        Opened::Refused
    }
    fn handle_handshake(&mut self, _: IpAddr, _: &[u8], _: &mut [u8]) -> Handshaken {
        Handshaken::Refused
    }
    fn initiate(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
    fn tick(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
}

struct Nowhere;

impl Io for Nowhere {
    fn deliver(&mut self, _: LocalPort, _: &VnetHdr, _: &[IoSlice<'_>]) -> Delivered {
        Delivered::Gone
    }
    fn transmit(&mut self, _: Via, _: usize, _: &[u8]) -> Sent {
        Sent::Done
    }
}

#[test]
fn a_short_payload_is_padded_with_zeros_and_not_with_what_was_sealed_before() {
    let sealed = Arc::default();
    let engine = Box::new(Glass(Arc::clone(&sealed)));
    let peer = Peer::new(Slot(1), [1; 32], 1, Relayed::Possible, engine);
    let (common, mut batch) = (Common::new(Slot(0), Instant::ZERO), TxBatch::default());
    let via = Via { remote: ([192, 0, 2, 1], 7770).into(), local: None };
    let to = Destination { slot: Slot(1), via, relay: None };
    let mut out = Out { batch: &mut batch, common: &common, io: &mut Nowhere, now: Instant::ZERO };
    let kind = Kind::Piece { number: 1, index: 0, count: 2, csum_offset: 0 };
    let shim = Shim { kind, flags: Flags::default(), csum_start: 0 };
    for len in [OUTPUT_LEN_MIN, SHIM_LONG_LEN + 1] {
        let filled = peer.tunnel().seal(to, shim, len, &mut out, |rest| {
            assert_eq!(rest.len(), len - SHIM_LONG_LEN);
            rest.fill(0xd5);
        });
        assert_eq!(filled, Ok(()));
    }
    let sealed = lock(&sealed);
    assert_eq!(sealed[0][SHIM_LONG_LEN..], [0xd5; OUTPUT_LEN_MIN - SHIM_LONG_LEN]);
    assert_eq!(sealed[1].len(), PAYLOAD_LEN_MIN);
    assert_eq!(sealed[1][SHIM_LONG_LEN..], [0xd5, 0, 0, 0, 0, 0, 0, 0]);
}
