//! A floppy disk with one file, for firmware that looks for a script.

/// Bytes of a sector; a cluster is one sector.
const SECTOR: usize = 512;
/// Sectors of a disk of 1440 KiB.
const SECTOR_COUNT: usize = 2880;
/// Sectors of each of the two allocation tables.
const TABLE_SECTORS: usize = 9;
/// Entries of the root directory, of 32 bytes each.
const ROOT_ENTRIES: usize = 224;
/// First cluster that a file may have.
const FIRST_CLUSTER: usize = 2;

/// Returns a FAT12 disk whose root holds one file; `name` is in the form of the directory: eight
/// and three characters, padded with spaces.
///
/// # Panics
/// When the file is longer than a megabyte.
#[must_use]
pub fn floppy(name: &[u8; 11], content: &[u8]) -> Vec<u8> {
    assert!(content.len() <= 1 << 20, "a floppy holds little more than a megabyte");
    let mut disk = vec![0; SECTOR_COUNT * SECTOR];
    // The boot sector: a jump, a name, and the shape of the disk.
    disk[..11].copy_from_slice(b"\xeb\x3c\x90MSDOS5.0");
    let shape: [u8; 21] =
        [0, 2, 1, 1, 0, 2, 224, 0, 0x40, 0x0b, 0xf0, 9, 0, 18, 0, 2, 0, 0, 0, 0, 0];
    disk[11..32].copy_from_slice(&shape);
    disk[38] = 0x29; // what follows is there: serial number, label, type
    disk[43..62].copy_from_slice(b"LAB        FAT12   ");
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);

    let cluster_count = content.len().div_ceil(SECTOR);
    let mut table = vec![0; TABLE_SECTORS * SECTOR];
    link(&mut table, 0, 0xff0);
    link(&mut table, 1, 0xfff);
    for n in 0..cluster_count {
        let at = FIRST_CLUSTER + n;
        link(&mut table, at, if n + 1 == cluster_count { 0xfff } else { at + 1 });
    }
    let root = (1 + 2 * TABLE_SECTORS) * SECTOR;
    for copy in 0..2 {
        let at = (1 + copy * TABLE_SECTORS) * SECTOR;
        disk[at..at + table.len()].copy_from_slice(&table);
    }
    disk[root..root + 11].copy_from_slice(name);
    disk[root + 11] = 0x20; // an ordinary file
    disk[root + 24] = 0x21; // of the first of January 1980
    if cluster_count > 0 {
        disk[root + 26] = 2;
    }
    let len = u32::try_from(content.len()).expect("a megabyte fits").to_le_bytes();
    disk[root + 28..root + 32].copy_from_slice(&len);
    let data = root + ROOT_ENTRIES * 32;
    disk[data..data + content.len()].copy_from_slice(content);
    disk
}

/// Writes one entry of 12 bits.
fn link(table: &mut [u8], cluster: usize, next: usize) {
    let at = cluster * 3 / 2;
    let [low, high] = u16::try_from(next & 0xfff).expect("12 bits fit").to_le_bytes();
    if cluster.is_multiple_of(2) {
        table[at] = low;
        table[at + 1] = table[at + 1] & 0xf0 | high;
    } else {
        table[at] = table[at] & 0x0f | low << 4;
        table[at + 1] = low >> 4 | high << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_12_bits_share_bytes_and_do_not_touch_each_other() {
        let mut table = [0; 6];
        for (cluster, next) in [(1, 0xabc), (0, 0x123), (3, 0xfff), (2, 0)] {
            link(&mut table, cluster, next);
        }
        assert_eq!(table, [0x23, 0xc1, 0xab, 0x00, 0xf0, 0xff]);
    }

    #[test]
    fn a_file_lies_behind_the_root_directory() {
        let disk = floppy(b"STARTUP NSH", &[b'x'; 700]);
        assert_eq!(disk.len(), 1_474_560);
        assert_eq!(&disk[19 * SECTOR..19 * SECTOR + 11], b"STARTUP NSH");
        assert_eq!(&disk[33 * SECTOR..33 * SECTOR + 700], [b'x'; 700]);
        assert_eq!(&disk[SECTOR..SECTOR + 6], [0xf0, 0xff, 0xff, 0x03, 0xf0, 0xff]);
    }
}
