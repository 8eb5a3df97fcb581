//! An ELF file that can be started: static or static-PIE, for arm64. A static-PIE program relocates itself (its start
//! code does), so all there is to do is to put its segments somewhere. Stacks are never executable here, whatever
//! `PT_GNU_STACK` says.

use crate::{USER_END, USER_START};
use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use elf::abi::{EM_AARCH64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_PHDR};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;
use elf::{ElfBytes, ParseError};

/// More segments than any linker makes.
const SEGMENTS_MAX: usize = 64;

/// One run of pages to map: zeroes, but for `file`'s bytes, which go to `content`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadSegment {
    /// Whole pages.
    pub range: AddrRange<UserVa>,
    /// Where the bytes from the file start.
    pub content: UserVa,
    /// Which bytes of the file these are.
    pub file: Range<usize>,
    /// What the program may do with it.
    pub prot: Prot,
}

/// Where a program may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadAddress {
    /// Only where it was linked to (`ET_EXEC`).
    Fixed,
    /// Anywhere, at a multiple of this (`ET_DYN`). Its addresses count from 0 until [`Executable::relocated`].
    Relocatable(u64),
}

/// A checked plan for loading a program: every segment is inside the file and the address space, on pages of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executable {
    /// Its segments, ascending.
    pub segments: Vec<LoadSegment>,
    /// Its first instruction, in an executable segment.
    pub entry: UserVa,
    /// Where the program headers are in its memory, if they are (`AT_PHDR`).
    pub headers: Option<UserVa>,
    /// How many there are (`AT_PHNUM`); each has [`Executable::HEADER_BYTES`].
    pub header_count: u64,
    /// Where it may be.
    pub load_address: LoadAddress,
}

/// Why a file cannot be started.
#[derive(Debug)]
pub enum ExecutableError {
    /// Its structure is broken.
    Parse(ParseError),
    /// It is for 32 bits.
    Class,
    /// It is for this machine (`e_machine`).
    Machine(u16),
    /// It is of this type (`e_type`), not a program.
    Type(u16),
    /// It needs a dynamic linker.
    Interpreter,
    /// Nothing in it is to be loaded.
    NoSegments,
    /// It has so many segments.
    TooManySegments(usize),
    /// The segment with this number takes more of the file than of memory, or more than the file has.
    SegmentSize(usize),
    /// The segment with this number is (partly) outside of a program's addresses.
    SegmentAddress(usize),
    /// The segment with this number has an alignment that is no power of two, or that its address or place in the
    /// file does not have.
    SegmentAlignment(usize),
    /// The segment with this number is to be writable and executable, which no mapping here is.
    SegmentAccess(usize),
    /// The segment with this number is not wholly behind the one before, in pages of its own.
    SegmentOverlap(usize),
    /// The first instruction would be at this address, which is not in an executable segment.
    Entry(UserVa),
}

impl fmt::Display for ExecutableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse(error) => write!(f, "no usable ELF file: {error}"),
            Self::Class => write!(f, "a 32-bit program"),
            Self::Machine(machine) => {
                write!(f, "a program for ELF machine {machine}, not {EM_AARCH64} (AArch64)")
            }
            Self::Type(kind) => write!(f, "ELF type {kind} is not a program"),
            Self::Interpreter => write!(f, "it needs a dynamic linker: link it statically"),
            Self::NoSegments => write!(f, "nothing in it is to be loaded"),
            Self::TooManySegments(count) => write!(f, "it has {count} program headers"),
            Self::SegmentSize(n) => write!(f, "segment {n} is larger than the file or its memory"),
            Self::SegmentAddress(n) => write!(f, "segment {n} is outside of a program's addresses"),
            Self::SegmentAlignment(n) => write!(f, "segment {n} is not aligned as it says"),
            Self::SegmentAccess(n) => write!(f, "segment {n} is writable and executable"),
            Self::SegmentOverlap(n) => {
                write!(f, "segment {n} shares pages with the one before or is below it")
            }
            Self::Entry(at) => write!(f, "its entry point {at} is not in an executable segment"),
        }
    }
}

impl Executable {
    /// Bytes of a program header (`AT_PHENT`).
    pub const HEADER_BYTES: u64 = 56;

    /// Checks `file` and plans how to load it.
    pub fn parse(file: &[u8]) -> Result<Self, ExecutableError> {
        let parsed = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(ExecutableError::Parse)?;
        let load_address = check_header(&parsed)?;
        let headers: Vec<ProgramHeader> = parsed.segments().into_iter().flatten().collect();
        if headers.len() > SEGMENTS_MAX {
            return Err(ExecutableError::TooManySegments(headers.len()));
        }
        if headers.iter().any(|header| header.p_type == PT_INTERP) {
            return Err(ExecutableError::Interpreter);
        }
        let segments = load_plan(&headers, file.len(), load_address)?;
        let plan = Self {
            entry: UserVa::new(parsed.ehdr.e_entry),
            headers: headers_address(&headers, &segments, parsed.ehdr.e_phoff),
            header_count: headers.len() as u64,
            load_address: with_alignment(load_address, &headers),
            segments,
        };
        plan.check_entry()?;
        Ok(plan)
    }

    /// All addresses that its segments span.
    pub fn span(&self) -> AddrRange<UserVa> {
        // `parse` leaves at least one segment, ascending.
        AddrRange::new(self.segments[0].range.start(), self.segments[self.segments.len() - 1].range.end())
    }

    /// The plan with every address `bias` higher; `None` when that leaves the address space or `bias` is not a
    /// multiple of what [`LoadAddress::Relocatable`] says.
    pub fn relocated(mut self, bias: u64) -> Option<Self> {
        let LoadAddress::Relocatable(align) = self.load_address else { return None };
        let end = self.span().end().checked_add(bias)?;
        if !bias.is_multiple_of(align)
            || end.raw() > USER_END
            || self.span().start().raw() + bias < USER_START
        {
            return None;
        }
        for segment in &mut self.segments {
            segment.range = AddrRange::new(segment.range.start() + bias, segment.range.end() + bias);
            segment.content = segment.content + bias;
        }
        self.entry = self.entry + bias;
        self.headers = self.headers.map(|at| at + bias);
        self.load_address = LoadAddress::Fixed;
        Some(self)
    }

    fn check_entry(&self) -> Result<(), ExecutableError> {
        let inside = |s: &LoadSegment| s.prot.contains(Prot::EXEC) && s.range.contains(self.entry);
        match self.segments.iter().any(inside) && self.entry.is_aligned(4) {
            true => Ok(()),
            false => Err(ExecutableError::Entry(self.entry)),
        }
    }
}

fn check_header(parsed: &ElfBytes<'_, LittleEndian>) -> Result<LoadAddress, ExecutableError> {
    let header = &parsed.ehdr;
    match (header.class, header.e_machine, header.e_type) {
        (Class::ELF32, _, _) => Err(ExecutableError::Class),
        (_, EM_AARCH64, ET_EXEC) => Ok(LoadAddress::Fixed),
        (_, EM_AARCH64, ET_DYN) => Ok(LoadAddress::Relocatable(PAGE_SIZE)),
        (_, EM_AARCH64, kind) => Err(ExecutableError::Type(kind)),
        (_, machine, _) => Err(ExecutableError::Machine(machine)),
    }
}

fn load_plan(
    headers: &[ProgramHeader],
    file_len: usize,
    load_address: LoadAddress,
) -> Result<Vec<LoadSegment>, ExecutableError> {
    let mut segments: Vec<LoadSegment> = Vec::new();
    let loads =
        headers.iter().enumerate().filter(|(_, header)| header.p_type == PT_LOAD && header.p_memsz > 0);
    for (number, header) in loads {
        let segment = check_segment(number, header, file_len, load_address)?;
        if segments.last().is_some_and(|before| before.range.end() > segment.range.start()) {
            return Err(ExecutableError::SegmentOverlap(number));
        }
        segments.push(segment);
    }
    if segments.is_empty() { Err(ExecutableError::NoSegments) } else { Ok(segments) }
}

fn check_segment(
    number: usize,
    header: &ProgramHeader,
    file_len: usize,
    load_address: LoadAddress,
) -> Result<LoadSegment, ExecutableError> {
    let file_end = header.p_offset.checked_add(header.p_filesz);
    if header.p_filesz > header.p_memsz || file_end.is_none_or(|end| end > file_len as u64) {
        return Err(ExecutableError::SegmentSize(number));
    }
    check_alignment(number, header)?;
    let prot = access(header.p_flags);
    if prot.contains(Prot::WRITE | Prot::EXEC) {
        return Err(ExecutableError::SegmentAccess(number));
    }
    let range = AddrRange::from_len(UserVa::new(header.p_vaddr), header.p_memsz)
        .and_then(|range| range.align_outward(PAGE_SIZE))
        .filter(|range| range.end().raw() <= USER_END)
        .filter(|range| load_address != LoadAddress::Fixed || range.start().raw() >= USER_START)
        .ok_or(ExecutableError::SegmentAddress(number))?;
    Ok(LoadSegment {
        range,
        content: UserVa::new(header.p_vaddr),
        file: header.p_offset as usize..(header.p_offset + header.p_filesz) as usize,
        prot,
    })
}

fn check_alignment(number: usize, header: &ProgramHeader) -> Result<(), ExecutableError> {
    let align = header.p_align.max(1);
    let congruent = header.p_vaddr.wrapping_sub(header.p_offset) & (align.wrapping_sub(1)) == 0;
    match align.is_power_of_two() && congruent {
        true => Ok(()),
        false => Err(ExecutableError::SegmentAlignment(number)),
    }
}

fn with_alignment(load_address: LoadAddress, headers: &[ProgramHeader]) -> LoadAddress {
    let largest = headers.iter().filter(|h| h.p_type == PT_LOAD).map(|h| h.p_align).max();
    match load_address {
        LoadAddress::Fixed => LoadAddress::Fixed,
        LoadAddress::Relocatable(page) => LoadAddress::Relocatable(largest.unwrap_or(page).max(page)),
    }
}

fn access(flags: u32) -> Prot {
    let pairs = [(PF_R, Prot::READ), (PF_W, Prot::WRITE), (PF_X, Prot::EXEC)];
    pairs.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, prot)| prot).collect()
}

/// `PT_PHDR` says it, or it follows from the segment that has that part of the file.
fn headers_address(headers: &[ProgramHeader], segments: &[LoadSegment], offset: u64) -> Option<UserVa> {
    let said = headers.iter().find(|header| header.p_type == PT_PHDR).map(|header| header.p_vaddr);
    let computed = || {
        let offset = offset as usize;
        let holds = segments.iter().find(|segment| segment.file.contains(&offset))?;
        Some(holds.content.raw() + (offset - holds.file.start) as u64)
    };
    let address = UserVa::new(said.or_else(computed)?);
    segments.iter().any(|segment| segment.range.contains(address)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy)]
    struct Header {
        kind: u32,
        flags: u32,
        offset: u64,
        vaddr: u64,
        filesz: u64,
        memsz: u64,
        align: u64,
    }

    const TEXT: Header = Header {
        kind: PT_LOAD,
        flags: PF_R | PF_X,
        offset: 0,
        vaddr: 0x40_0000,
        filesz: 0x800,
        memsz: 0x800,
        align: 0x1000,
    };
    const DATA: Header = Header {
        kind: PT_LOAD,
        flags: PF_R | PF_W,
        offset: 0x800,
        vaddr: 0x41_0800,
        filesz: 0x100,
        memsz: 0x2000,
        align: 0x1000,
    };

    fn file(kind: u16, entry: u64, headers: &[Header]) -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [kind, EM_AARCH64] {
            out.extend(half.to_le_bytes());
        }
        out.extend(1u32.to_le_bytes());
        for word in [entry, 64, 0] {
            out.extend(word.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        for half in [64, 56, headers.len() as u16, 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        for h in headers {
            out.extend(h.kind.to_le_bytes());
            out.extend(h.flags.to_le_bytes());
            for word in [h.offset, h.vaddr, h.vaddr, h.filesz, h.memsz, h.align] {
                out.extend(word.to_le_bytes());
            }
        }
        out.resize(out.len().max(0x900), 0xaa);
        out
    }

    fn error(kind: u16, entry: u64, headers: &[Header]) -> String {
        format!("{:?}", Executable::parse(&file(kind, entry, headers)).unwrap_err())
    }

    #[test]
    fn a_static_program_goes_where_it_was_linked_to() {
        let plan = Executable::parse(&file(ET_EXEC, 0x40_0100, &[TEXT, DATA])).unwrap();
        assert_eq!(
            (plan.entry.raw(), plan.headers, plan.header_count),
            (0x40_0100, Some(UserVa::new(0x40_0040)), 2)
        );
        assert_eq!(plan.load_address, LoadAddress::Fixed);
        let data = &plan.segments[1];
        assert_eq!((data.range.start().raw(), data.range.end().raw()), (0x41_0000, 0x41_3000));
        assert_eq!(
            (data.content.raw(), data.file.clone(), data.prot),
            (0x41_0800, 0x800..0x900, Prot::READ | Prot::WRITE)
        );
        assert_eq!(plan.relocated(0x1000), None);
    }

    #[test]
    fn a_static_pie_goes_anywhere_aligned() {
        let text = Header { vaddr: 0, align: 0x1_0000, ..TEXT };
        let plan = Executable::parse(&file(ET_DYN, 0x100, &[text])).unwrap();
        assert_eq!(plan.load_address, LoadAddress::Relocatable(0x1_0000));
        assert_eq!(plan.clone().relocated(0x1000), None, "not aligned");
        assert_eq!(plan.clone().relocated(0), None, "below the lowest address");
        assert_eq!(plan.clone().relocated(USER_END), None, "above the highest address");
        let relocated = plan.relocated(0x5555_0000).unwrap();
        assert_eq!((relocated.entry.raw(), relocated.headers.unwrap().raw()), (0x5555_0100, 0x5555_0040));
        assert_eq!(relocated.span().start().raw(), 0x5555_0000);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let entry = 0x40_0100;
        let with = |change: fn(&mut Header)| {
            let mut data = DATA;
            change(&mut data);
            error(ET_EXEC, entry, &[TEXT, data])
        };
        assert_eq!(with(|h| h.filesz = 0x3000), "SegmentSize(1)");
        assert_eq!(with(|h| h.offset = u64::MAX - 0x7ff), "SegmentSize(1)");
        assert_eq!(with(|h| h.memsz = 0x10), "SegmentSize(1)");
        assert_eq!(with(|h| h.memsz = u64::MAX), "SegmentAddress(1)");
        assert_eq!(with(|h| h.memsz = 1 << 48), "SegmentAddress(1)");
        assert_eq!(with(|h| h.vaddr = 0xffff_0000_0000_0800), "SegmentAddress(1)");
        assert_eq!(with(|h| h.vaddr = 0x800), "SegmentAddress(1)");
        assert_eq!(with(|h| h.align = 0x3000), "SegmentAlignment(1)");
        assert_eq!(with(|h| h.vaddr = 0x41_0801), "SegmentAlignment(1)");
        assert_eq!(with(|h| h.vaddr = 0x40_0800), "SegmentOverlap(1)");
        assert_eq!(with(|h| h.flags = PF_R | PF_W | PF_X), "SegmentAccess(1)");
        assert_eq!(with(|h| h.kind = PT_INTERP), "Interpreter");
        assert_eq!(error(ET_EXEC, 0x41_0800, &[TEXT, DATA]), "Entry(UserVa(0x410800))");
        assert_eq!(error(ET_EXEC, 0x40_0102, &[TEXT, DATA]), "Entry(UserVa(0x400102))");
        assert_eq!(error(ET_EXEC, entry, &[]), "NoSegments");
        assert_eq!(error(1, entry, &[TEXT]), "Type(1)");
        assert_eq!(error(ET_EXEC, entry, &[TEXT; 65]), "TooManySegments(65)");
    }

    #[test]
    fn other_machines_and_other_files_are_refused() {
        let mut x86 = file(ET_EXEC, 0x40_0100, &[TEXT]);
        x86[18] = 62;
        assert!(matches!(Executable::parse(&x86), Err(ExecutableError::Machine(62))));
        for bytes in [&b"#!/bin/sh\nexit 0\n"[..], b"", b"\x7fELF"] {
            assert!(matches!(Executable::parse(bytes), Err(ExecutableError::Parse(_))));
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_refused_or_stays_in_bounds(changes in prop::collection::vec((0usize..0x100, any::<u8>()), 1..8), pie: bool) {
            let mut bytes = file(if pie { ET_DYN } else { ET_EXEC }, 0x40_0100, &[TEXT, DATA]);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(plan) = Executable::parse(&bytes) {
                for segment in &plan.segments {
                    prop_assert!(segment.file.end <= bytes.len());
                    prop_assert!(segment.range.end().raw() <= USER_END);
                    prop_assert!(segment.range.contains(segment.content));
                    prop_assert!(segment.content + segment.file.len() as u64 <= segment.range.end());
                }
            }
        }
    }
}
