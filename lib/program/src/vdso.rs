//! The vDSO: the image of a shared object whose functions C libraries call instead of system calls.
//!
//! One page, for one read-only and executable segment. Its times need no update by the kernel: the frequency
//! of the counter and the real time at its start are constant.

use alloc::vec::Vec;

/// The names of the functions, in the order of their offsets in the code.
const FUNCTIONS: [&[u8]; 4] =
    [b"__kernel_clock_gettime", b"__kernel_gettimeofday", b"__kernel_clock_getres", b"__kernel_rt_sigreturn"];
/// The index of `__kernel_rt_sigreturn`.
const SIGRETURN: usize = 3;
/// The number of offsets at the start of the code: those of the functions and of the data.
const OFFSETS: usize = FUNCTIONS.len() + 1;
const SONAME: &[u8] = b"linux-vdso.so.1";
/// The version of the symbols, for which C libraries look on arm64.
const VERSION: &[u8] = b"LINUX_2.6.39";

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SYMBOL: usize = 24;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const READ: u32 = 4;
const READ_EXECUTE: u32 = 5;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_SONAME: u64 = 14;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERDEFNUM: u64 = 0x6fff_fffd;

/// The vDSO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vdso {
    /// The ELF file, which is also its content in memory.
    pub image: Vec<u8>,
    /// The offset of the code to which signal handlers return without `SA_RESTORER`.
    pub sigreturn: u64,
}

/// The constants of the time functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VdsoTime {
    /// The frequency of the counter.
    pub frequency: u64,
    /// The real time at the start of the counter, in seconds.
    pub seconds: u64,
    /// And nanoseconds.
    pub nanoseconds: u64,
}

/// The offsets of the sections in the file.
struct VdsoLayout {
    hash: usize,
    symbols: usize,
    strings: usize,
    versions: usize,
    definitions: usize,
    dynamic: usize,
    code: usize,
}

impl Vdso {
    /// Builds the image of `code`, which starts with the 32-bit offsets of its functions and of its data, and
    /// has room for `time` there.
    pub fn build(code: &[u8], time: VdsoTime) -> Self {
        let offsets: [usize; OFFSETS] = core::array::from_fn(|n| {
            u32::from_le_bytes([code[4 * n], code[4 * n + 1], code[4 * n + 2], code[4 * n + 3]]) as usize
        });
        let (strings, names) = strings();
        let symbols = FUNCTIONS.len() + 1;
        let hash = HEADER + 2 * PROGRAM_HEADER;
        let at = hash + 4 * (3 + symbols).next_multiple_of(2);
        let table = at + SYMBOL * symbols;
        let versions = (table + strings.len()).next_multiple_of(8);
        let definitions = (versions + 2 * symbols).next_multiple_of(8);
        let dynamic = definitions + 2 * 28 + 8;
        let code_at = (dynamic + 16 * 10).next_multiple_of(16);
        let layout =
            VdsoLayout { hash, symbols: at, strings: table, versions, definitions, dynamic, code: code_at };

        let mut image = ImageWriter(Vec::with_capacity(code_at + code.len()));
        write_headers(&mut image, &layout, code.len());
        image.pad_to(layout.hash);
        // One bucket: a chain of all symbols.
        image.words(&[1, symbols as u32, 1]);
        (0..symbols).for_each(|n| image.words(&[if n > 0 && n + 1 < symbols { n as u32 + 1 } else { 0 }]));
        image.pad_to(layout.symbols + SYMBOL);
        for (n, name) in names.functions.into_iter().enumerate() {
            // A global function in section 1, which stands for a defined symbol.
            image.words(&[name, 1 << 16 | 0x12]);
            image.longs(&[(code_at + offsets[n]) as u64, (offsets[n + 1] - offsets[n]) as u64]);
        }
        image.0.extend(&strings);
        image.pad_to(layout.versions);
        // The undefined symbol is local; the others have version 2.
        image.0.extend([0, 0]);
        (1..symbols).for_each(|_| image.0.extend([2, 0]));
        image.pad_to(layout.definitions);
        // Version 1 is that of the file: flags, index, count of names; hash, name and next definition.
        image.words(&[1 << 16 | 1, 1 << 16 | 1, hash_of(SONAME), 20, 28, names.soname, 0]);
        image.words(&[1, 1 << 16 | 2, hash_of(VERSION), 20, 0, names.version, 0]);
        image.pad_to(layout.dynamic);
        write_dynamic(&mut image, &layout, &names, strings.len());
        image.pad_to(layout.code);
        image.0.extend(&code[..offsets[OFFSETS - 1]]);
        image.longs(&[time.frequency, time.seconds, time.nanoseconds]);
        Self { image: image.0, sigreturn: (code_at + offsets[SIGRETURN]) as u64 }
    }
}

/// The offsets of the names in the string table.
struct VdsoNames {
    functions: [u32; FUNCTIONS.len()],
    soname: u32,
    version: u32,
}

fn strings() -> (Vec<u8>, VdsoNames) {
    let mut strings = Vec::from([0]);
    let mut add = |name: &[u8]| {
        let at = strings.len() as u32;
        strings.extend(name.iter().chain(&[0]));
        at
    };
    let names = VdsoNames { functions: FUNCTIONS.map(&mut add), soname: add(SONAME), version: add(VERSION) };
    (strings, names)
}

fn write_headers(image: &mut ImageWriter, layout: &VdsoLayout, code: usize) {
    // ELF, 64 bits, little endian, version 1.
    image.0.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // A shared object for AArch64.
    image.words(&[183 << 16 | 3, 1]);
    image.longs(&[0, HEADER as u64, 0]);
    // Flags; sizes of the header and of the program headers; their number; no section headers.
    image.words(&[0, (PROGRAM_HEADER << 16 | HEADER) as u32, 64 << 16 | 2, 0]);
    let end = (layout.code + code) as u64;
    image.words(&[PT_LOAD, READ_EXECUTE]);
    image.longs(&[0, 0, 0, end, end, 0x1000]);
    image.words(&[PT_DYNAMIC, READ]);
    let (at, len) = (layout.dynamic as u64, 16 * 10);
    image.longs(&[at, at, at, len, len, 8]);
}

fn write_dynamic(image: &mut ImageWriter, layout: &VdsoLayout, names: &VdsoNames, strings: usize) {
    image.longs(&[DT_SONAME, names.soname.into(), DT_HASH, layout.hash as u64]);
    image.longs(&[DT_STRTAB, layout.strings as u64, DT_STRSZ, strings as u64]);
    image.longs(&[DT_SYMTAB, layout.symbols as u64, DT_SYMENT, SYMBOL as u64]);
    image.longs(&[DT_VERSYM, layout.versions as u64, DT_VERDEF, layout.definitions as u64]);
    image.longs(&[DT_VERDEFNUM, 2, 0, 0]);
}

/// The hash function of version names (System V ABI, "Hash Table").
fn hash_of(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash, &byte| {
        let hash = (hash << 4) + u32::from(byte);
        let high = hash & 0xf000_0000;
        (hash ^ high >> 24) & !high
    })
}

/// A file that is written front to back.
struct ImageWriter(Vec<u8>);

impl ImageWriter {
    fn words(&mut self, words: &[u32]) {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    fn longs(&mut self, words: &[u64]) {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    fn pad_to(&mut self, offset: usize) {
        assert!(self.0.len() <= offset, "sections overlap at {offset:#x}");
        self.0.resize(offset, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use elf::ElfBytes;
    use elf::endian::LittleEndian;
    use elf::hash::SysVHashTable;
    use elf::parse::ParsingTable;
    use elf::string_table::StringTable;
    use elf::symbol::SymbolTable;

    /// Four functions of 4 to 16 bytes, and the data.
    fn code() -> Vec<u8> {
        let mut code: Vec<u8> = [20u32, 24, 32, 40, 56].iter().flat_map(|at| at.to_le_bytes()).collect();
        code.extend(20..56);
        code.extend([0; 24]);
        code
    }

    fn vdso() -> Vdso {
        Vdso::build(&code(), VdsoTime { frequency: 62_500_000, seconds: 7, nanoseconds: 8 })
    }

    fn dynamic(image: &[u8], tag: u64) -> usize {
        let file = ElfBytes::<LittleEndian>::minimal_parse(image).unwrap();
        let mut entries = file.dynamic().unwrap().unwrap().iter();
        entries.find(|entry| entry.d_tag as u64 == tag).unwrap().d_val() as usize
    }

    #[test]
    fn c_libraries_find_each_function_by_its_hash() {
        let Vdso { image, sigreturn } = vdso();
        let end = dynamic(&image, DT_STRTAB) + dynamic(&image, DT_STRSZ);
        let strings = StringTable::new(&image[dynamic(&image, DT_STRTAB)..end]);
        let class = elf::file::Class::ELF64;
        let symbols = &image[dynamic(&image, DT_SYMTAB)..dynamic(&image, DT_STRTAB)];
        let symbols: SymbolTable<'_, LittleEndian> = ParsingTable::new(LittleEndian, class, symbols);
        let hash = &image[dynamic(&image, DT_HASH)..dynamic(&image, DT_SYMTAB)];
        let hash = SysVHashTable::new(LittleEndian, class, hash).unwrap();
        for (n, name) in FUNCTIONS.iter().enumerate() {
            let (index, symbol) = hash.find(name, &symbols, &strings).unwrap().unwrap();
            assert_eq!((index, symbol.is_undefined(), symbol.st_size), (n + 1, false, [4, 8, 8, 16][n]));
            let (at, len) = (symbol.st_value as usize, symbol.st_size as usize);
            let start = [20, 24, 32, 40][n];
            assert_eq!(image[at..at + len], code()[start..start + len]);
        }
        assert_eq!(hash.find(b"__kernel_getrandom", &symbols, &strings).unwrap(), None);
        assert_eq!(image[sigreturn as usize], 40);
        assert_eq!(strings.get_raw(dynamic(&image, DT_SONAME)).unwrap(), SONAME);
    }

    #[test]
    fn symbols_have_the_version_of_linux() {
        let Vdso { image, .. } = vdso();
        let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
        let versions = dynamic(&image, DT_VERSYM);
        assert_eq!(image[versions..versions + 10], [0, 0, 2, 0, 2, 0, 2, 0, 2, 0]);
        let definition = dynamic(&image, DT_VERDEF) + word(dynamic(&image, DT_VERDEF) + 16) as usize;
        // The hash that C libraries compare, from glibc's sources.
        assert_eq!((word(definition + 4), word(definition + 8)), (0x1_0002, 0x075f_cb89));
        let name = dynamic(&image, DT_STRTAB) + word(definition + word(definition + 12) as usize) as usize;
        assert_eq!(image[name..name + VERSION.len()], *VERSION);
        assert_eq!(word(definition + 16), 0);
    }

    #[test]
    fn image_is_one_page_that_ends_with_the_time() {
        let Vdso { image, .. } = vdso();
        let file = ElfBytes::<LittleEndian>::minimal_parse(&image).unwrap();
        let headers = file.segments().unwrap();
        let load = headers.get(0).unwrap();
        assert_eq!((load.p_type, load.p_flags, load.p_vaddr), (PT_LOAD, READ_EXECUTE, 0));
        assert_eq!((load.p_filesz, headers.len()), (image.len() as u64, 2));
        assert!(image.len() <= 4096);
        let time: Vec<u8> = [62_500_000u64, 7, 8].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(image.ends_with(&time));
        assert_eq!(vdso(), vdso());
    }
}
