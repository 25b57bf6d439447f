//! Writes captures as pcapng: one section, one interface, a block for each frame.
//!
//! # Theory of operation
//! [`Writer::new`] writes the section and the interface, [`Writer::frame`] a packet block with its
//! direction as the port sees it: inbound is what the attachment sends. [`Writer::end`] adds the
//! counts; a file that was cut off before it is read all the same. Each block is one write.
//!
//! # Limits
//! Texts are cut at [`TEXT_LEN_MAX`] bytes. Left out: more than one interface, name resolution,
//! and checksums that the sender leaves to the network card, which readers call wrong.
//!
//! Source: draft-ietf-opsawg-pcapng-02, 4.1 to 4.3 and 4.6.

use std::io::{self, Write};

use super::{Record, Way};

/// Most bytes of a frame, as declared for captures of whole ones: libpcap's own bound.
pub const SNAPLEN_MAX: u32 = 262_144;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
/// Time stamps are nanoseconds: 10 to the minus ninth.
const NANOSECONDS: u8 = 9;
/// Longest text of an option, in bytes.
const TEXT_LEN_MAX: usize = 255;

/// Writes blocks to `W`.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    block: Vec<u8>,
    frames: u64,
}

impl<W: Write> Writer<W> {
    /// Writes what stands before the first frame.
    ///
    /// `program` and `name` are shown by readers, as is `words`, where the interface is; `snaplen`
    /// is the most bytes of a frame.
    ///
    /// # Errors
    /// The output's.
    pub fn new(out: W, program: &str, name: &str, words: &str, snaplen: u32) -> io::Result<Self> {
        let mut writer = Self { out, block: Vec::new(), frames: 0 };
        let magic = BYTE_ORDER_MAGIC.to_le_bytes();
        let version = [1_u16.to_le_bytes(), 0_u16.to_le_bytes()].concat();
        let length_unknown = u64::MAX.to_le_bytes();
        let body = [&magic[..], &version, &length_unknown].concat();
        writer.block(SECTION_HEADER, &body, &[], &[(4, program.as_bytes())])?;
        let link = [LINKTYPE_ETHERNET.to_le_bytes(), [0; 2]].concat();
        let body = [&link[..], &snaplen.to_le_bytes()].concat();
        let options = [(2, name.as_bytes()), (3, words.as_bytes()), (9, &[NANOSECONDS] as &[u8])];
        writer.block(INTERFACE_DESCRIPTION, &body, &[], &options)?;
        Ok(writer)
    }

    /// Writes a frame; a record without one writes nothing.
    ///
    /// # Errors
    /// The output's.
    pub fn frame(&mut self, record: &Record, bytes: &[u8]) -> io::Result<()> {
        let Some(way) = record.way else { return Ok(()) };
        let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut body = 0_u32.to_le_bytes().to_vec(); // the one interface
        body.extend(time(record.unix_ns));
        body.extend(captured.to_le_bytes());
        body.extend(record.frame_len.max(captured).to_le_bytes());
        let direction: u32 = match way {
            Way::FromGuest => 1,
            Way::ToGuest => 2,
        };
        self.frames += 1;
        self.block(ENHANCED_PACKET, &body, bytes, &[(2, &direction.to_le_bytes())])
    }

    /// Writes how many frames there were and how many are missing, the last of all.
    ///
    /// # Errors
    /// The output's.
    pub fn end(&mut self, unix_ns: u64, left_out: u64) -> io::Result<()> {
        let mut body = 0_u32.to_le_bytes().to_vec();
        body.extend(time(unix_ns));
        let seen = self.frames.saturating_add(left_out).to_le_bytes();
        let options = [(4, &seen as &[u8]), (5, &left_out.to_le_bytes())];
        self.block(INTERFACE_STATISTICS, &body, &[], &options)?;
        self.flush()
    }

    /// Hands on what waits in buffers.
    ///
    /// # Errors
    /// The output's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Returns how many frames were written.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Writes one block: fixed part, data, options, and its length at both ends.
    fn block(
        &mut self,
        kind: u32,
        fixed: &[u8],
        data: &[u8],
        options: &[(u16, &[u8])],
    ) -> io::Result<()> {
        let block = &mut self.block;
        block.clear();
        block.extend(kind.to_le_bytes());
        block.extend([0; 4]);
        block.extend(fixed);
        padded(block, data);
        for (code, value) in options {
            let value = &value[..value.len().min(TEXT_LEN_MAX)];
            block.extend(code.to_le_bytes());
            // At most TEXT_LEN_MAX.
            block.extend(u16::try_from(value.len()).unwrap_or_default().to_le_bytes());
            padded(block, value);
        }
        block.extend([0; 4]); // end of options
        let len = u32::try_from(block.len() + 4).map_err(io::Error::other)?.to_le_bytes();
        block[4..8].copy_from_slice(&len);
        block.extend(len);
        self.out.write_all(block)
    }
}

/// A time stamp: its upper and its lower half.
fn time(unix_ns: u64) -> [u8; 8] {
    let mut out = [0; 8];
    let bytes = unix_ns.to_le_bytes();
    out[..4].copy_from_slice(&bytes[4..]);
    out[4..].copy_from_slice(&bytes[..4]);
    out
}

fn padded(block: &mut Vec<u8>, bytes: &[u8]) {
    block.extend(bytes);
    block.resize(block.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
    use pcap_parser::{Block, PcapBlockOwned, PcapError, PcapNGReader};

    use super::*;

    #[test]
    fn an_independent_reader_reads_what_was_written() {
        let mut file = Vec::new();
        let mut writer =
            Writer::new(&mut file, "overlay-seller 1", "farm/g1", "eth0", 256).expect("written");
        let unix_ns = 1_700_000_000_123_456_789;
        let record = |way, frame_len| Record { way, frame_len, left_out: 3, unix_ns };
        writer.frame(&record(Some(Way::FromGuest), 65_549), &[7; 54]).expect("written");
        writer.frame(&record(None, 0), &[]).expect("nothing");
        writer.frame(&record(Some(Way::ToGuest), 61), &[8; 61]).expect("written");
        writer.end(unix_ns, 3).expect("written");

        let mut reader = PcapNGReader::new(65_536, &file[..]).expect("a section");
        let (mut packets, mut others) = (Vec::new(), Vec::new());
        loop {
            match reader.next() {
                Ok((offset, PcapBlockOwned::NG(block))) => {
                    match block {
                        Block::EnhancedPacket(packet) => {
                            let flags = packet.options.iter().find(|o| o.code.0 == 2);
                            packets.push((
                                (u64::from(packet.ts_high) << 32) | u64::from(packet.ts_low),
                                packet.caplen,
                                packet.origlen,
                                packet.packet_data().to_vec(),
                                flags.expect("a direction").value[0],
                            ));
                        }
                        Block::InterfaceDescription(interface) => {
                            assert_eq!(interface.snaplen, 256);
                            assert_eq!(interface.if_tsresol, 9);
                            let name = interface.options.iter().find(|o| o.code.0 == 2);
                            assert_eq!(&name.expect("a name").value[..7], b"farm/g1");
                            others.push("interface");
                        }
                        Block::InterfaceStatistics(counts) => {
                            let dropped = counts.options.iter().find(|o| o.code.0 == 5);
                            assert_eq!(dropped.expect("drops").value[0], 3);
                            others.push("statistics");
                        }
                        Block::SectionHeader(_) => others.push("section"),
                        other => panic!("{other:?}"),
                    }
                    reader.consume(offset);
                }
                Ok(_) => panic!("a block of the older format"),
                Err(PcapError::Eof) => break,
                Err(PcapError::Incomplete(_)) => reader.refill().expect("all is there"),
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(others, ["section", "interface", "statistics"]);
        assert_eq!(
            packets,
            [(unix_ns, 54, 65_549, vec![7; 54], 1), (unix_ns, 61, 61, vec![8; 61], 2)]
        );
    }
}
