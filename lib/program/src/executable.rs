//! ELF load plan for static and static-PIE arm64 executables. A static-PIE executable applies its own
//! relocations at startup, so the loader only chooses its load bias. Stacks are never executable;
//! `PT_GNU_STACK` is ignored.

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

/// The limit of program headers, above the number that linkers produce.
const SEGMENTS_MAX: usize = 64;

/// A `PT_LOAD` segment: zero-filled pages with the bytes `file` of the ELF file at `content`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadSegment {
    /// The address range, page-aligned.
    pub range: AddrRange<UserVa>,
    /// The address of the first byte from the file.
    pub content: UserVa,
    /// The bytes of the file.
    pub file: Range<usize>,
    /// The protection.
    pub prot: Prot,
}

/// The constraint on the load address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadAddress {
    /// The link address (`ET_EXEC`).
    Fixed,
    /// Any multiple of this alignment (`ET_DYN`). Addresses are relative to 0 until
    /// [`Executable::relocated`].
    Relocatable(u64),
}

/// A validated load plan: every segment is inside the file and the address space, and segments share no
/// pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executable {
    /// The segments, ascending.
    pub segments: Vec<LoadSegment>,
    /// The entry point, in an executable segment.
    pub entry: UserVa,
    /// The address of the program headers, if they are loaded (`AT_PHDR`).
    pub headers: Option<UserVa>,
    /// The number of program headers (`AT_PHNUM`), of [`Executable::HEADER_BYTES`] each.
    pub header_count: u64,
    /// The constraint on the load address.
    pub load_address: LoadAddress,
}

/// The reason why a file cannot be loaded. Segments are identified by their program header index.
#[derive(Debug)]
pub enum ExecutableError {
    /// Malformed ELF structure.
    Parse(ParseError),
    /// A 32-bit file.
    Class,
    /// A file for another machine (`e_machine`).
    Machine(u16),
    /// A file of this type (`e_type`), which is not an executable.
    Type(u16),
    /// A dynamic linker (`PT_INTERP`) is required.
    Interpreter,
    /// No `PT_LOAD` segment.
    NoSegments,
    /// This number of program headers exceeds the limit.
    TooManySegments(usize),
    /// The segment's file size exceeds its memory size or the file.
    SegmentSize(usize),
    /// The segment is (partly) outside of the user address space.
    SegmentAddress(usize),
    /// The segment's alignment is not a power of two, or its address and file offset are not congruent to it.
    SegmentAlignment(usize),
    /// The segment is writable and executable, which is not permitted.
    SegmentAccess(usize),
    /// The segment shares pages with the previous one, or is below it.
    SegmentOverlap(usize),
    /// This entry point is not in an executable segment.
    Entry(UserVa),
}

impl fmt::Display for ExecutableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse(error) => write!(f, "invalid ELF file: {error}"),
            Self::Class => write!(f, "32-bit ELF file"),
            Self::Machine(machine) => {
                write!(f, "ELF machine {machine} is not {EM_AARCH64} (AArch64)")
            }
            Self::Type(kind) => write!(f, "ELF type {kind} is not an executable"),
            Self::Interpreter => write!(f, "dynamically linked: only static executables are supported"),
            Self::NoSegments => write!(f, "no PT_LOAD segment"),
            Self::TooManySegments(count) => write!(f, "too many program headers: {count}"),
            Self::SegmentSize(n) => write!(f, "segment {n} is larger than the file or its memory"),
            Self::SegmentAddress(n) => write!(f, "segment {n} is outside of the user address space"),
            Self::SegmentAlignment(n) => write!(f, "segment {n} is misaligned"),
            Self::SegmentAccess(n) => write!(f, "segment {n} is writable and executable"),
            Self::SegmentOverlap(n) => {
                write!(f, "segment {n} overlaps or precedes the previous one")
            }
            Self::Entry(at) => write!(f, "entry point {at} is not in an executable segment"),
        }
    }
}

impl Executable {
    /// The size of a program header (`AT_PHENT`).
    pub const HEADER_BYTES: u64 = 56;

    /// Validates `file` and computes its load plan.
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

    /// The range from the first to the last segment.
    pub fn span(&self) -> AddrRange<UserVa> {
        // `parse` guarantees at least one segment, in ascending order.
        AddrRange::new(self.segments[0].range.start(), self.segments[self.segments.len() - 1].range.end())
    }

    /// The plan with `bias` added to every address; `None` if it is fixed, does not fit into the address
    /// space, or `bias` is not a multiple of the alignment.
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
    let prot = protection(header.p_flags);
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

fn protection(flags: u32) -> Prot {
    let pairs = [(PF_R, Prot::READ), (PF_W, Prot::WRITE), (PF_X, Prot::EXEC)];
    pairs.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, prot)| prot).collect()
}

/// The address of the program headers: from `PT_PHDR`, or from the segment that contains their file offset.
fn headers_address(headers: &[ProgramHeader], segments: &[LoadSegment], offset: u64) -> Option<UserVa> {
    let declared = headers.iter().find(|header| header.p_type == PT_PHDR).map(|header| header.p_vaddr);
    let computed = || {
        let offset = offset as usize;
        let segment = segments.iter().find(|segment| segment.file.contains(&offset))?;
        Some(segment.content.raw() + (offset - segment.file.start) as u64)
    };
    let address = UserVa::new(declared.or_else(computed)?);
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
    fn et_exec_loads_at_its_link_address() {
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
    fn static_pie_relocates_to_any_aligned_address() {
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
    fn malformed_segments_are_rejected_by_index() {
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
    fn segment_may_end_at_the_end_of_user_memory() {
        let at = |vaddr| file(ET_EXEC, 0x40_0100, &[TEXT, Header { vaddr, ..DATA }]);
        let highest = USER_END - 0x3000 + 0x800;
        let plan = Executable::parse(&at(highest)).unwrap();
        assert_eq!(plan.segments[1].range.end().raw(), USER_END);
        assert!(matches!(Executable::parse(&at(highest + 0x1000)), Err(ExecutableError::SegmentAddress(1))));
    }

    /// The alignment and the address of such a segment are not checked either, as in Linux.
    #[test]
    fn segment_without_memory_is_ignored() {
        let empty = Header { vaddr: 0x800, filesz: 0, memsz: 0, ..DATA };
        let plan = Executable::parse(&file(ET_EXEC, 0x40_0100, &[empty, TEXT])).unwrap();
        assert_eq!((plan.segments.len(), plan.header_count), (1, 2));
        assert_eq!(error(ET_EXEC, 0x40_0100, &[empty]), "NoSegments");
    }

    #[test]
    fn declared_address_of_the_program_headers_must_be_loaded() {
        for (vaddr, expected) in [(0x40_0080, Some(0x40_0080)), (0x70_0000, None)] {
            let declared = Header { kind: PT_PHDR, vaddr, ..TEXT };
            let plan = Executable::parse(&file(ET_EXEC, 0x40_0100, &[declared, TEXT])).unwrap();
            assert_eq!(plan.headers.map(UserVa::raw), expected);
        }
    }

    #[test]
    fn other_machines_and_file_formats_are_rejected() {
        let mut x86 = file(ET_EXEC, 0x40_0100, &[TEXT]);
        x86[18] = 62;
        assert!(matches!(Executable::parse(&x86), Err(ExecutableError::Machine(62))));
        for bytes in [&b"#!/bin/sh\nexit 0\n"[..], b"", b"\x7fELF"] {
            assert!(matches!(Executable::parse(bytes), Err(ExecutableError::Parse(_))));
        }
    }

    proptest! {
        #[test]
        fn corrupt_file_is_rejected_or_its_plan_stays_in_bounds(
            changes in prop::collection::vec((0usize..0x100, any::<u8>()), 1..8),
            pie: bool,
        ) {
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
