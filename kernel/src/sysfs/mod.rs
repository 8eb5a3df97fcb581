//! `/sys`: the CPUs, the devices with nodes in `/dev` by their classes, and the PCI functions, in Linux's
//! layout.

mod pci;
mod vfio;

use crate::fs::char_device::{self, CharDevice};
use crate::fs::generated::{EntryKind, FsEntry, GeneratedFs, Numbered, Text, find_decimal};
use crate::fs::root::{self, FsNode};
use crate::percpu;
use abi::Errno;
use alloc::sync::Arc;
use core::fmt::{self, Write};
use program::{LinkTarget, write_cpu_list};

static SYSFS: GeneratedFs = GeneratedFs {
    path: "/sys",
    name: "sysfs",
    magic: 0x6265_6572,
    device: 7,
    file_bytes: 4096,
    root: FsEntry::directory("", ROOT),
};

/// Registers the file system.
pub fn init() {
    root::register(&SYSFS);
}

const ROOT: &[FsEntry] = &[
    FsEntry::directory("bus", BUS),
    FsEntry::numbered("class", &CLASSES),
    FsEntry::directory("dev", DEVICE_LINKS),
    FsEntry::new("devices", 0o555, EntryKind::Directory(ALL_DEVICES, Some(&pci::HOSTS))),
    FsEntry::directory("kernel", KERNEL),
];

const BUS: &[FsEntry] = &[FsEntry::directory("pci", PCI_BUS)];
const PCI_BUS: &[FsEntry] = &[FsEntry::numbered("devices", &pci::LINKS)];
const DEVICE_LINKS: &[FsEntry] = &[FsEntry::numbered("char", &DEVICE_NUMBERS)];
const ALL_DEVICES: &[FsEntry] =
    &[FsEntry::directory("system", SYSTEM), FsEntry::numbered("virtual", &VIRTUAL_CLASSES)];
const SYSTEM: &[FsEntry] = &[FsEntry::new("cpu", 0o555, EntryKind::Directory(CPU_LISTS, Some(&CPUS)))];
const CPU_LISTS: &[FsEntry] = &[
    FsEntry::text("online", cpu_list),
    FsEntry::text("possible", cpu_list),
    FsEntry::text("present", cpu_list),
];
const KERNEL: &[FsEntry] =
    &[FsEntry::numbered("iommu_groups", &vfio::GROUPS), FsEntry::directory("mm", MEMORY)];
const MEMORY: &[FsEntry] = &[FsEntry::directory("transparent_hugepage", HUGE_PAGES)];
const HUGE_PAGES: &[FsEntry] = &[FsEntry::text("enabled", |_, out| out.push(b"[always] madvise never\n"))];

fn cpu_list(_: &[u32], out: &mut Text) -> Result<(), Errno> {
    let online = percpu::online_indices().filter(|&cpu| percpu::is_online(cpu));
    write_cpu_list(out, online.fold(0, |set, cpu| set | 1 << cpu))?;
    out.push(b"\n")
}

static CPUS: Numbered = Numbered {
    entry: FsEntry::directory(
        "",
        &[FsEntry::directory(
            "topology",
            &[
                FsEntry::text("core_id", |numbers, out| Ok(writeln!(out, "{}", numbers[0])?)),
                FsEntry::text("physical_package_id", |_, out| out.push(b"0\n")),
            ],
        )],
    ),
    next: |_, from| {
        percpu::online_indices()
            .find(|&cpu| cpu >= from as usize && percpu::is_online(cpu))
            .map(|cpu| cpu as u32)
    },
    name: |_, number, out| Ok(write!(out, "cpu{number}")?),
    find: |numbers, name| find_decimal(numbers, name.strip_prefix(b"cpu")?),
};

/// The classes; the number is that of the first device of a class, in the order of the registration.
static CLASSES: Numbered = Numbered { entry: FsEntry::numbered("", &CLASS_LINKS), ..CLASSES_OF };
static VIRTUAL_CLASSES: Numbered = Numbered { entry: FsEntry::numbered("", &DEVICES), ..CLASSES_OF };
const CLASSES_OF: Numbered = Numbered {
    entry: FsEntry::directory("", &[]),
    next: |_, from| {
        let is_first = |number: &u32| {
            let class = device(*number).map(|device| class_of(&device).len()).unwrap_or_default();
            class > 0 && (0..*number).all(|earlier| !is_same_class(earlier, *number))
        };
        device_numbers(from).find(is_first)
    },
    name: |_, number, out| out.push(class_of(&*device(number)?).as_bytes()),
    find: |_, name| {
        device_numbers(0)
            .find(|&number| device(number).is_ok_and(|device| class_of(&device).as_bytes() == name))
    },
};

/// The devices of a class; the number is that of the device.
static CLASS_LINKS: Numbered =
    Numbered { entry: FsEntry::link("", |numbers| link_to_device("../..", numbers[1])), ..DEVICES_OF };
static DEVICES: Numbered = Numbered { entry: FsEntry::directory("", DEVICE), ..DEVICES_OF };
const DEVICES_OF: Numbered = Numbered {
    entry: FsEntry::directory("", &[]),
    next: |numbers, from| device_numbers(from).find(|&number| is_same_class(numbers[0], number)),
    name: |_, number, out| out.push(name_of(&*device(number)?).as_bytes()),
    find: |numbers, name| {
        let has_name = |number| device(number).is_ok_and(|device| name_of(&device).as_bytes() == name);
        device_numbers(0).find(|&number| is_same_class(numbers[0], number) && has_name(number))
    },
};

const DEVICE: &[FsEntry] = &[
    FsEntry::text("dev", |numbers, out| Ok(writeln!(out, "{}", device(numbers[1])?.number())?)),
    FsEntry::link("subsystem", |numbers| {
        path(format_args!("../../../../class/{}", class_of(&*device(numbers[1])?)))
    }),
    FsEntry::text("uevent", |numbers, out| {
        let device = device(numbers[1])?;
        let number = device.number();
        writeln!(out, "MAJOR={}\nMINOR={}\nDEVNAME={}", number.major, number.minor, device_path(&device))?;
        Ok(())
    }),
];

/// Links by device number.
static DEVICE_NUMBERS: Numbered = Numbered {
    entry: FsEntry::link("", |numbers| link_to_device("../..", numbers[0])),
    next: |_, from| device_numbers(from).next(),
    name: |_, number, out| Ok(write!(out, "{}", device(number)?.number())?),
    find: |_, name| {
        let has_name = |number: &u32| {
            let mut text = Text::default();
            device(*number).is_ok_and(|device| write!(text, "{}", device.number()).is_ok()) && text.0 == name
        };
        device_numbers(0).find(has_name)
    },
};

fn device(number: u32) -> Result<Arc<CharDevice>, Errno> {
    char_device::get(number as usize).ok_or(Errno::ENOENT)
}

fn device_numbers(from: u32) -> impl Iterator<Item = u32> {
    from..char_device::count() as u32
}

fn is_same_class(one: u32, two: u32) -> bool {
    matches!((device(one), device(two)), (Ok(one), Ok(two)) if class_of(&one) == class_of(&two))
}

/// Returns the path of the node in `/dev`.
fn device_path(device: &CharDevice) -> &str {
    let path = device.paths().first().map_or("", |path| path);
    path.strip_prefix("/dev/").unwrap_or(path)
}

fn name_of(device: &CharDevice) -> &str {
    let path = device_path(device);
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the class: of Linux's numbers, or the directory or the name of the node.
fn class_of(device: &CharDevice) -> &str {
    class_of_node(device.number().major, device_path(device))
}

fn class_of_node(major: u32, path: &str) -> &str {
    match (major, path.split_once('/')) {
        (1, _) => "mem",
        (4 | 5, _) => "tty",
        (10, _) => "misc",
        (_, Some((directory, _))) => directory,
        (_, None) => path.trim_end_matches(|digit: char| digit.is_ascii_digit()),
    }
}

fn link_to_device(up: &str, number: u32) -> Result<LinkTarget<FsNode>, Errno> {
    let device = device(number)?;
    path(format_args!("{up}/devices/virtual/{}/{}", class_of(&device), name_of(&device)))
}

fn path(text: fmt::Arguments<'_>) -> Result<LinkTarget<FsNode>, Errno> {
    let mut path = Text::default();
    fmt::write(&mut path, text)?;
    Ok(LinkTarget::Path(path.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_number_and_path() {
        let cases = [
            ((1, "null"), "mem"),
            ((5, "console"), "tty"),
            ((10, "udmabuf"), "misc"),
            ((240, "dma_heap/system"), "dma_heap"),
            ((241, "edu0"), "edu"),
        ];
        for ((major, path), class) in cases {
            assert_eq!(class_of_node(major, path), class, "{path}");
        }
    }
}
