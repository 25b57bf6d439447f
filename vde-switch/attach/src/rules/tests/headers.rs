//! Frames for rules that no row of the catalogue is about.

use super::Try;
use crate::canary::Side;
use crate::frames::*;

/// TCP headers that end before or at the end of their packet, of each length.
pub(super) fn more() -> Vec<Try> {
    let header = |words: u8, len: usize| {
        let mut segment = tcp(ACK, &[1; 40]);
        segment[12] = words << 4;
        segment.truncate(len);
        segment
    };
    let sizes = (5..=15_u8).flat_map(|words| {
        let len = 4 * usize::from(words);
        [(words, len), (words, len - 1), (words, len - 4)]
    });
    let frames = sizes.flat_map(|(words, len)| {
        let (v4, v6) =
            (alice4(BOB4, TCP, &header(words, len)), alice6(BOB6, TCP, &header(words, len)));
        [v4, v6].map(|frame| Try {
            name: format!("{len} bytes of a TCP header of {}", 4 * words),
            from: Side::Guest,
            vnet: [0; 12],
            frame,
        })
    });
    frames.collect()
}
