//! ELF load plan for arm64 executables and dynamic linkers. Both apply their own relocations, so the loader
//! only chooses a load bias. As in Linux, only the parts of a file that are used are checked: neither section
//! headers, nor notes, nor a segment's offset if it has no content. Stacks are never executable;
//! `PT_GNU_STACK` is ignored.

use crate::{USER_END, USER_START};
use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use elf::ParseError;
use elf::abi::{EI_NIDENT, EM_AARCH64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_PHDR};
use elf::endian::LittleEndian;
use elf::file::{Class, parse_ident};
use elf::segment::{ProgramHeader, SegmentTable};

/// The maximum size of the program headers, as in Linux.
const HEADERS_MAX_BYTES: usize = 64 << 10;
/// The maximum length of the path of a dynamic linker, with its terminator (`PATH_MAX`).
const PATH_MAX: u64 = 4096;

/// The mappings of a `PT_LOAD` segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadSegment {
    /// The pages that map the file from `file_offset` on; empty for a segment without content. The first and
    /// the last one also have the bytes of the file around the segment.
    pub file_pages: AddrRange<UserVa>,
    /// Page-aligned.
    pub file_offset: u64,
    /// The rest of the last page of the file, to be zeroed; empty if the segment has no zero-initialized
    /// memory, or is read-only.
    pub zeroed: AddrRange<UserVa>,
    /// The pages behind it, of zeroes.
    pub zero_pages: AddrRange<UserVa>,
    /// The protection.
    pub prot: Prot,
}

impl LoadSegment {
    /// All pages.
    fn pages(&self) -> AddrRange<UserVa> {
        match (self.file_pages.is_empty(), self.zero_pages.is_empty()) {
            (true, _) => self.zero_pages,
            (_, true) => self.file_pages,
            _ => AddrRange::new(self.file_pages.start(), self.zero_pages.end()),
        }
    }

    fn moved(self, bias: u64) -> Self {
        let moved = |range: AddrRange<UserVa>| match range.is_empty() {
            true => range,
            false => AddrRange::new(range.start() + bias, range.end() + bias),
        };
        Self {
            file_pages: moved(self.file_pages),
            zeroed: moved(self.zeroed),
            zero_pages: moved(self.zero_pages),
            ..self
        }
    }
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

/// A validated load plan: every segment is inside the address space. Segments are mapped in order; the pages
/// of a later one replace those of an earlier one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executable {
    /// The segments, at least one.
    pub segments: Vec<LoadSegment>,
    /// The entry point, in an executable segment.
    pub entry: UserVa,
    /// The address of the program headers, if they are loaded (`AT_PHDR`).
    pub headers: Option<UserVa>,
    /// The number of program headers (`AT_PHNUM`), of [`Executable::HEADER_BYTES`] each.
    pub header_count: u64,
    /// The path of the dynamic linker in the file (`PT_INTERP`).
    pub interpreter: Option<Range<usize>>,
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
    /// The path of the dynamic linker (`PT_INTERP`) is not in the file, too long, or not terminated.
    Interpreter,
    /// No `PT_LOAD` segment.
    NoSegments,
    /// The program headers: this number of this size.
    Headers {
        /// `e_phnum`.
        count: u16,
        /// `e_phentsize`.
        size: u16,
    },
    /// The segment's file size exceeds its memory size.
    SegmentSize(usize),
    /// The segment is (partly) outside of the user address space.
    SegmentAddress(usize),
    /// The segment's address and file offset are not congruent modulo the page size.
    SegmentAlignment(usize),
    /// The segment is writable and executable, which is not permitted.
    SegmentAccess(usize),
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
            Self::Interpreter => write!(f, "the path of the dynamic linker (PT_INTERP) is invalid"),
            Self::NoSegments => write!(f, "no PT_LOAD segment"),
            Self::Headers { count, size } => {
                write!(f, "{count} program headers of {size} bytes: not in the file, none, or too many")
            }
            Self::SegmentSize(n) => write!(f, "the content of segment {n} is larger than its memory"),
            Self::SegmentAddress(n) => write!(f, "segment {n} is outside of the user address space"),
            Self::SegmentAlignment(n) => write!(f, "segment {n} is misaligned"),
            Self::SegmentAccess(n) => write!(f, "segment {n} is writable and executable"),
            Self::Entry(at) => write!(f, "entry point {at} is not in an executable segment"),
        }
    }
}

impl Executable {
    /// The size of a program header (`AT_PHENT`).
    pub const HEADER_BYTES: u64 = 56;

    /// Validates `file` and computes its load plan.
    pub fn parse(file: &[u8]) -> Result<Self, ExecutableError> {
        let (header, headers) = parse_headers(file)?;
        let load_address = check_header(&header)?;
        let segments = load_plan(&headers, load_address)?;
        let plan = Self {
            entry: UserVa::new(header.e_entry),
            headers: headers_address(&headers, &segments, header.e_phoff),
            header_count: headers.len() as u64,
            interpreter: interpreter(&headers, file)?,
            load_address: with_alignment(load_address, &headers),
            segments,
        };
        plan.check_entry()?;
        Ok(plan)
    }

    /// The range from the lowest to the highest segment.
    pub fn span(&self) -> AddrRange<UserVa> {
        let pages = || self.segments.iter().map(LoadSegment::pages);
        let start = pages().map(|pages| pages.start()).min().unwrap_or_default();
        AddrRange::new(start, pages().map(|pages| pages.end()).max().unwrap_or(start))
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
        self.segments = self.segments.into_iter().map(|segment| segment.moved(bias)).collect();
        self.entry = self.entry + bias;
        self.headers = self.headers.map(|at| at + bias);
        self.load_address = LoadAddress::Fixed;
        Some(self)
    }

    fn check_entry(&self) -> Result<(), ExecutableError> {
        let inside = |s: &LoadSegment| s.prot.contains(Prot::EXEC) && s.pages().contains(self.entry);
        match self.segments.iter().any(inside) && self.entry.is_aligned(4) {
            true => Ok(()),
            false => Err(ExecutableError::Entry(self.entry)),
        }
    }
}

type FileHeader = elf::file::FileHeader<LittleEndian>;

/// Parses the file header and the program headers.
fn parse_headers(file: &[u8]) -> Result<(FileHeader, Vec<ProgramHeader>), ExecutableError> {
    let (ident, tail) = file
        .split_at_checked(EI_NIDENT)
        .ok_or(ExecutableError::Parse(ParseError::SliceReadError((0, EI_NIDENT))))?;
    let ident = parse_ident::<LittleEndian>(ident).map_err(ExecutableError::Parse)?;
    let header = FileHeader::parse_tail(ident, tail).map_err(ExecutableError::Parse)?;
    check_header(&header)?;
    let (count, size) = (header.e_phnum, header.e_phentsize);
    let len = usize::from(count) * usize::from(size);
    let fits = u64::from(size) == Executable::HEADER_BYTES && (1..=HEADERS_MAX_BYTES).contains(&len);
    let table = usize::try_from(header.e_phoff)
        .ok()
        .and_then(|start| file.get(start..start.checked_add(len)?))
        .filter(|_| fits)
        .ok_or(ExecutableError::Headers { count, size })?;
    let headers = SegmentTable::new(LittleEndian, Class::ELF64, table).iter().collect();
    Ok((header, headers))
}

fn check_header(header: &FileHeader) -> Result<LoadAddress, ExecutableError> {
    match (header.class, header.e_machine, header.e_type) {
        (Class::ELF32, _, _) => Err(ExecutableError::Class),
        (_, EM_AARCH64, ET_EXEC) => Ok(LoadAddress::Fixed),
        (_, EM_AARCH64, ET_DYN) => Ok(LoadAddress::Relocatable(PAGE_SIZE)),
        (_, EM_AARCH64, kind) => Err(ExecutableError::Type(kind)),
        (_, machine, _) => Err(ExecutableError::Machine(machine)),
    }
}

/// The path in the first `PT_INTERP`, without its terminator.
fn interpreter(headers: &[ProgramHeader], file: &[u8]) -> Result<Option<Range<usize>>, ExecutableError> {
    let Some(header) = headers.iter().find(|header| header.p_type == PT_INTERP) else { return Ok(None) };
    let path = |header: &ProgramHeader| {
        let start = usize::try_from(header.p_offset).ok()?;
        let len =
            usize::try_from(header.p_filesz).ok().filter(|_| (2..=PATH_MAX).contains(&header.p_filesz))?;
        let bytes = file.get(start..start.checked_add(len)?)?;
        // The first terminator ends the path; Linux requires one in the last byte.
        let end = bytes.iter().position(|&byte| byte == 0).filter(|_| bytes.ends_with(&[0]))?;
        Some(start..start + end)
    };
    path(header).map(Some).ok_or(ExecutableError::Interpreter)
}

fn load_plan(
    headers: &[ProgramHeader],
    load_address: LoadAddress,
) -> Result<Vec<LoadSegment>, ExecutableError> {
    let loads =
        headers.iter().enumerate().filter(|(_, header)| header.p_type == PT_LOAD && header.p_memsz > 0);
    let segments: Vec<LoadSegment> = loads
        .map(|(number, header)| check_segment(number, header, load_address))
        .collect::<Result<_, _>>()?;
    if segments.is_empty() { Err(ExecutableError::NoSegments) } else { Ok(segments) }
}

fn check_segment(
    number: usize,
    header: &ProgramHeader,
    load_address: LoadAddress,
) -> Result<LoadSegment, ExecutableError> {
    if header.p_filesz > header.p_memsz {
        return Err(ExecutableError::SegmentSize(number));
    }
    let in_page = header.p_vaddr % PAGE_SIZE;
    let has_content = header.p_filesz > 0;
    if has_content && header.p_offset % PAGE_SIZE != in_page {
        return Err(ExecutableError::SegmentAlignment(number));
    }
    let prot = protection(header.p_flags);
    if prot.contains(Prot::WRITE | Prot::EXEC) {
        return Err(ExecutableError::SegmentAccess(number));
    }
    let pages = AddrRange::from_len(UserVa::new(header.p_vaddr), header.p_memsz)
        .and_then(|range| range.align_outward(PAGE_SIZE))
        .filter(|range| range.end().raw() <= USER_END)
        .filter(|range| load_address != LoadAddress::Fixed || range.start().raw() >= USER_START)
        .ok_or(ExecutableError::SegmentAddress(number))?;
    // In `pages`, as the file size is at most the memory size.
    let content_end = UserVa::new(header.p_vaddr) + header.p_filesz;
    let file_end = if has_content { content_end.align_up(PAGE_SIZE) } else { Some(pages.start()) };
    let file_end = file_end.ok_or(ExecutableError::SegmentAddress(number))?;
    let zeroes = has_content && header.p_memsz > header.p_filesz && prot.contains(Prot::WRITE);
    Ok(LoadSegment {
        file_pages: AddrRange::new(pages.start(), file_end),
        file_offset: if has_content { header.p_offset - in_page } else { 0 },
        zeroed: if zeroes { AddrRange::new(content_end, file_end) } else { AddrRange::EMPTY },
        zero_pages: AddrRange::new(file_end, pages.end()),
        prot,
    })
}

fn with_alignment(load_address: LoadAddress, headers: &[ProgramHeader]) -> LoadAddress {
    // Other alignments are ignored, as in Linux.
    let valid = |header: &&ProgramHeader| header.p_type == PT_LOAD && header.p_align.is_power_of_two();
    let largest = headers.iter().filter(valid).map(|header| header.p_align).max();
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
        let contains = |segment: &&LoadSegment| {
            offset.checked_sub(segment.file_offset).is_some_and(|at| at < segment.file_pages.len())
        };
        let segment = segments.iter().find(contains)?;
        Some(segment.file_pages.start().raw() + (offset - segment.file_offset))
    };
    let address = UserVa::new(declared.or_else(computed)?);
    segments.iter().any(|segment| segment.pages().contains(address)).then_some(address)
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
        let range = |range: AddrRange<UserVa>| (range.start().raw(), range.end().raw());
        assert_eq!((range(data.file_pages), data.file_offset), ((0x41_0000, 0x41_1000), 0));
        assert_eq!(range(data.zeroed), (0x41_0900, 0x41_1000));
        assert_eq!(range(data.zero_pages), (0x41_1000, 0x41_3000));
        assert_eq!(data.prot, Prot::READ | Prot::WRITE);
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
        assert_eq!(with(|h| h.memsz = 0x10), "SegmentSize(1)");
        assert_eq!(with(|h| h.memsz = u64::MAX), "SegmentAddress(1)");
        assert_eq!(with(|h| h.memsz = 1 << 48), "SegmentAddress(1)");
        assert_eq!(with(|h| h.vaddr = 0xffff_0000_0000_0800), "SegmentAddress(1)");
        assert_eq!(with(|h| h.vaddr = 0x800), "SegmentAddress(1)");
        assert_eq!(with(|h| h.vaddr = 0x41_0801), "SegmentAlignment(1)");
        assert_eq!(with(|h| h.flags = PF_R | PF_W | PF_X), "SegmentAccess(1)");
        assert_eq!(error(ET_EXEC, 0x41_0800, &[TEXT, DATA]), "Entry(UserVa(0x410800))");
        assert_eq!(error(ET_EXEC, 0x40_0102, &[TEXT, DATA]), "Entry(UserVa(0x400102))");
        assert_eq!(error(ET_EXEC, entry, &[]), "Headers { count: 0, size: 56 }");
        assert_eq!(error(ET_EXEC, entry, &[Header { kind: 4, ..TEXT }]), "NoSegments");
        assert_eq!(error(1, entry, &[TEXT]), "Type(1)");
        assert_eq!(error(ET_EXEC, entry, &[TEXT; 1171]), "Headers { count: 1171, size: 56 }");
    }

    #[test]
    fn unusual_files_that_linux_loads_are_accepted() {
        let plan = |headers: &[Header]| Executable::parse(&file(ET_EXEC, 0x40_0100, headers)).unwrap();
        let bss = Header { offset: 0x50_0001, filesz: 0, memsz: 0x1800, vaddr: 0x3f_0000, align: 3, ..DATA };
        let loaded = plan(&[TEXT, bss]);
        assert_eq!(
            loaded.span(),
            AddrRange::new(UserVa::new(0x3f_0000), UserVa::new(0x40_1000)),
            "descending"
        );
        let bss = &loaded.segments[1];
        assert!(bss.file_pages.is_empty() && bss.zeroed.is_empty());
        assert_eq!(bss.zero_pages.len(), 0x2000);
        for align in [0, 3, 0x20_0000, 1 << 63] {
            assert_eq!(plan(&[TEXT, Header { align, ..DATA }]).segments.len(), 2, "alignment {align:#x}");
        }
        let beyond = Header { offset: 0x10_0800, ..DATA };
        assert_eq!(plan(&[TEXT, beyond]).segments[1].file_offset, 0x10_0000, "above the end of the file");
        let note = Header { kind: 4, offset: u64::MAX, filesz: u64::MAX, ..TEXT };
        let many = [&[note; 1169][..], &[TEXT]].concat();
        assert_eq!(plan(&many).header_count, 1170);
        // e_shoff, e_shnum and e_shstrndx, which the loader does not read.
        let mut bytes = file(ET_EXEC, 0x40_0100, &[TEXT]);
        bytes[40..48].fill(0xff);
        bytes[60..64].fill(0x55);
        assert!(Executable::parse(&bytes).is_ok());
    }

    #[test]
    fn read_only_segment_keeps_the_bytes_of_the_file_behind_its_content() {
        let text = Header { memsz: 0x1800, ..TEXT };
        let plan = Executable::parse(&file(ET_EXEC, 0x40_0100, &[text])).unwrap();
        assert!(plan.segments[0].zeroed.is_empty());
        assert_eq!(plan.segments[0].zero_pages.len(), 0x1000);
    }

    #[test]
    fn path_of_the_dynamic_linker_must_be_terminated() {
        let parse = |offset: u64, path: &[u8]| {
            let interp = Header { kind: PT_INTERP, offset, filesz: path.len() as u64, ..TEXT };
            let mut bytes = file(ET_EXEC, 0x40_0100, &[interp, TEXT]);
            bytes[0x200..0x200 + path.len()].copy_from_slice(path);
            Executable::parse(&bytes).map(|plan| plan.interpreter.unwrap())
        };
        assert_eq!(parse(0x200, b"/lib/ld.so\0").unwrap(), 0x200..0x20a);
        assert_eq!(parse(0x200, b"/lib\0ld.so\0").unwrap(), 0x200..0x204);
        for (offset, path) in
            [(0x200, &b"/lib/ld.so"[..]), (0x200, b"\0"), (0x8ff, b"/a\0"), (u64::MAX, b"/a\0")]
        {
            assert!(
                matches!(parse(offset, path), Err(ExecutableError::Interpreter)),
                "{path:?} at {offset:#x}"
            );
        }
    }

    #[test]
    fn segment_may_end_at_the_end_of_user_memory() {
        let at = |vaddr| file(ET_EXEC, 0x40_0100, &[TEXT, Header { vaddr, ..DATA }]);
        let highest = USER_END - 0x3000 + 0x800;
        let plan = Executable::parse(&at(highest)).unwrap();
        assert_eq!(plan.segments[1].pages().end().raw(), USER_END);
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
                    let LoadSegment { file_pages, zeroed, zero_pages, .. } = segment;
                    for pages in [file_pages, zero_pages] {
                        prop_assert!(pages.end().raw() <= USER_END);
                        prop_assert!(pages.start().is_aligned(PAGE_SIZE) && pages.end().is_aligned(PAGE_SIZE));
                    }
                    prop_assert!(zeroed.is_empty() || file_pages.covers(zeroed) && zeroed.len() < PAGE_SIZE);
                    prop_assert!(segment.file_offset.is_multiple_of(PAGE_SIZE));
                }
            }
        }
    }
}
