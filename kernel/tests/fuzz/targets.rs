//! The fuzz targets (parsers of untrusted input) and their seeds.

use drivers::pcie::{Bdf, Capabilities, ConfigSpace, Host, HostDescription, Width};
use kernel::board::{BootArgs, DeviceTree, Glob, Platform};
use kernel::devices;
use program::{CpioArchive, Executable};
use smmu_spec::EventRecord;
use std::fmt::Write;
use std::sync::OnceLock;

const VIRT: &[u8] = include_bytes!("seeds/virt.dtb");

/// Reads a device tree as the boot does.
pub fn device_tree(input: &[u8]) -> String {
    match DeviceTree::new(input) {
        Err(error) => error.to_string(),
        Ok(tree) => match Platform::read(&tree, &devices::compatible()) {
            Ok(platform) => platform.warnings.iter().map(|warning| format!("{warning:?};")).collect(),
            Err(error) => error.to_string(),
        },
    }
}

pub fn device_trees() -> Vec<Vec<u8>> {
    vec![VIRT.to_vec()]
}

/// Reads an initramfs, entry by entry and as a tree.
pub fn archive(input: &[u8]) -> String {
    let entries: Result<Vec<_>, _> = CpioArchive::new(input).collect();
    let tree = program::FileTree::<_, ()>::from_archive(CpioArchive::new(input), |data| data);
    format!(
        "{:?} {:?}",
        entries.map(|entries| entries.len()),
        tree.map(|_| ()).map_err(|error| error.to_string())
    )
}

pub fn archives() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for (name, mode, data) in [
        ("bin", 0o40755, ""),
        ("bin/a", 0o100755, "program"),
        ("l", 0o120777, "bin/a"),
        ("TRAILER!!!", 0, ""),
    ] {
        let fields = [1, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        bytes.extend(b"070701");
        fields.iter().for_each(|field| bytes.extend(format!("{field:08X}").bytes()));
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data.bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    vec![bytes]
}

/// Parses and relocates an executable.
pub fn executable(input: &[u8]) -> String {
    match Executable::parse(input) {
        Err(error) => format!("{error:?}"),
        Ok(plan) => {
            let span = plan.span();
            assert!(span.end().raw() <= program::USER_END, "{span:?}");
            let segments = plan.segments.len();
            let relocated = plan.relocated(0x5555_0000_0000).map(|plan| plan.span().len());
            format!("{segments} segments {}", relocated.is_some())
        }
    }
}

pub fn executables() -> Vec<Vec<u8>> {
    [2u16, 3].map(elf).to_vec()
}

/// A small ELF file of this type with a code segment and a data segment.
fn elf(kind: u16) -> Vec<u8> {
    let base: u64 = if kind == 2 { 0x40_0000 } else { 0 };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([kind.to_le_bytes(), 183u16.to_le_bytes()].concat());
    file.extend(1u32.to_le_bytes());
    [base + 0x100, 64, 0].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    [64u16, 56, 2, 64, 0, 0].iter().for_each(|half| file.extend(half.to_le_bytes()));
    for (flags, at, bytes, memory) in [(5u32, 0u64, 0x200u64, 0x200u64), (6, 0x200, 0x100, 0x3000)] {
        file.extend([1u32.to_le_bytes(), flags.to_le_bytes()].concat());
        let address = base + at + if flags == 6 { 0x1_0000 } else { 0 };
        [at, address, address, bytes, memory, 0x1_0000]
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
    }
    file.resize(0x300, 0x1f);
    file
}

/// Decodes and prints event records.
pub fn event_records(input: &[u8]) -> String {
    let mut trace = String::new();
    for record in input.chunks_exact(32) {
        let word = |index: usize| u64::from_le_bytes(record[8 * index..][..8].try_into().unwrap());
        let event = EventRecord::decode(std::array::from_fn(word));
        write!(trace, "{event}").unwrap();
    }
    trace
}

pub fn records() -> Vec<Vec<u8>> {
    (0..=0x24).map(|kind| [&[kind, 0, 0, 0, 8, 0, 0, 0], &[0x5a; 24][..]].concat()).collect()
}

/// A host bridge with configuration space from the input: 256 bytes per function, four functions per bus, all
/// writable.
struct FakeConfigSpace(Vec<u8>);

impl FakeConfigSpace {
    fn byte_offset(&self, at: Bdf, offset: u16, width: Width) -> Option<usize> {
        let function = usize::from(at.bus()) * 4 + usize::from(at.device());
        let start = 256 * function + usize::from(offset);
        let inside = at.device() < 4 && at.function() == 0 && offset < 256;
        (inside && start + width as usize <= self.0.len()).then_some(start)
    }
}

impl ConfigSpace for FakeConfigSpace {
    fn read(&self, at: Bdf, offset: u16, width: Width) -> u32 {
        let Some(start) = self.byte_offset(at, offset, width) else {
            return u32::MAX >> (32 - 8 * width as u32);
        };
        (0..width as usize).rev().fold(0, |value, byte| value << 8 | u32::from(self.0[start + byte]))
    }

    fn write(&mut self, at: Bdf, offset: u16, width: Width, value: u32) {
        if let Some(start) = self.byte_offset(at, offset, width) {
            self.0[start..start + width as usize].copy_from_slice(&value.to_le_bytes()[..width as usize]);
        }
    }
}

/// Enumerates a configuration space, assigns resources and lists the capabilities.
pub fn configuration(input: &[u8]) -> String {
    // Parsed once: it takes longer than the rest of the target.
    static DESCRIPTION: OnceLock<HostDescription> = OnceLock::new();
    let description = DESCRIPTION.get_or_init(|| {
        let tree = DeviceTree::new(VIRT).unwrap();
        HostDescription { buses: 0..=7, ..tree.pci_hosts().next().unwrap().1.unwrap() }
    });
    let host = Host::enumerate(FakeConfigSpace(input.to_vec()), description.clone());
    let functions: Vec<_> = host.functions().iter().map(|function| function.bdf).collect();
    let capabilities: usize = functions.iter().map(|&at| Capabilities::of(host.config(), at).count()).sum();
    format!("{} functions, {} capabilities, {:?}", functions.len(), capabilities.min(9), host.problems())
}

pub fn configurations() -> Vec<Vec<u8>> {
    let mut endpoint = vec![0u8; 256];
    endpoint[..8].copy_from_slice(&[0x34, 0x12, 0xe8, 0x11, 0, 0, 0x10, 0]);
    (endpoint[0x34], endpoint[0x40], endpoint[0x41], endpoint[0x50]) = (0x40, 5, 0x50, 0x10);
    let mut bridge = endpoint.clone();
    (bridge[0x0b], bridge[0x0a], bridge[0x0e], bridge[0x52]) = (6, 4, 1, 0x40);
    vec![endpoint.clone(), [bridge.clone(), endpoint.clone(), vec![0xff; 512], endpoint].concat()]
}

/// Parses a kernel command line.
pub fn arguments(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    match BootArgs::parse(&text) {
        Err(error) => format!("{error:?}").split('(').next().unwrap_or_default().into(),
        Ok(args) => format!("{} unknown, {} for init", args.unknown().count(), args.init_args().count()),
    }
}

pub fn command_lines() -> Vec<Vec<u8>> {
    [
        "selftest=dma.* lowmem=256M loglevel=7",
        "init=/bin/probe vmalloc=1G -- list all",
        "iommu=off dma.trace bench quiet",
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec()
}

/// Matches a name against a pattern; a newline separates the two.
pub fn patterns(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (pattern, name) = text.split_once('\n').unwrap_or((&text, "dma.alloc"));
    format!("{}", Glob::new(pattern).matches(name))
}

pub fn pattern_seeds() -> Vec<Vec<u8>> {
    ["dma.*\ndma.alloc", "*a*b*c*\naabbcc", "?\n?"].map(|text| text.as_bytes().to_vec()).to_vec()
}
