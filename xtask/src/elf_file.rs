//! Small ELF files: for boot states of the image, and for the tests of ELF readers.

/// ELF's number for 64-bit Arm.
pub const AARCH64: u16 = 183;

/// A loaded segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Its virtual and physical address.
    pub address: u64,
    /// Its content.
    pub bytes: &'a [u8],
    /// Its size in memory; the rest after `bytes` is zero.
    pub memory: u64,
}

impl<'a> Segment<'a> {
    /// A segment of the size of its content.
    pub fn new(address: u64, bytes: &'a [u8]) -> Self {
        Self { address, bytes, memory: bytes.len() as u64 }
    }
}

/// A little-endian 64-bit executable of these segments, entered at `entry`.
pub fn executable(machine: u16, entry: u64, segments: &[Segment<'_>]) -> Vec<u8> {
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    let count = segments.len();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    halves(&mut file, &[2, machine, 1, 0]);
    words(&mut file, &[entry, HEADER as u64, 0]);
    halves(&mut file, &[0, 0, HEADER as u16, PROGRAM_HEADER as u16, count as u16, HEADER as u16, 0, 0]);
    let mut offset = (HEADER + PROGRAM_HEADER * count) as u64;
    for segment in segments {
        let size = segment.bytes.len() as u64;
        halves(&mut file, &[1, 0, 7, 0]);
        words(&mut file, &[offset, segment.address, segment.address, size, segment.memory, 8]);
        offset += size;
    }
    segments.iter().for_each(|segment| file.extend_from_slice(segment.bytes));
    file
}

fn halves(file: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| file.extend(value.to_le_bytes()));
}

fn words(file: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|value| file.extend(value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use elf::ElfBytes;
    use elf::endian::LittleEndian;

    use super::*;

    #[test]
    fn an_elf_reader_finds_every_segment() {
        let data = Segment { memory: 0x100, ..Segment::new(0x9000, b"more data") };
        let file = executable(AARCH64, 0x1000, &[Segment::new(0x1000, b"code"), data]);
        let elf = ElfBytes::<LittleEndian>::minimal_parse(&file).unwrap();
        assert_eq!((elf.ehdr.e_entry, elf.ehdr.e_machine), (0x1000, 183));
        let headers = elf.segments().unwrap();
        let seen: Vec<_> =
            headers.iter().map(|s| (s.p_paddr, s.p_memsz, elf.segment_data(&s).unwrap().to_vec())).collect();
        assert_eq!(seen, [(0x1000, 4, b"code".to_vec()), (0x9000, 0x100, b"more data".to_vec())]);
    }
}
