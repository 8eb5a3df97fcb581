//! Isolation groups (`/sys/kernel/iommu_groups`), drivers of PCI functions (`/sys/bus/pci/drivers`), and the
//! entries of a function that name them.

use super::pci;
use crate::devices::pci::{PciAddress, driver_of};
use crate::fs::generated::{FsEntry, Numbered, Text, decimal_name, find_decimal};
use crate::fs::root::FsNode;
use crate::vfio::{IommuGroup, registry};
use abi::Errno;
use alloc::sync::Arc;
use core::fmt::Write;
use program::LinkTarget;

/// The groups, by number.
pub static GROUPS: Numbered = Numbered {
    entry: FsEntry::directory(
        "",
        &[
            FsEntry::numbered("devices", &MEMBERS),
            FsEntry::text("reserved_regions", |numbers, out| {
                group(numbers[0])?.reserved_regions().iter().try_for_each(|range| {
                    let (start, last) = (range.start().raw(), range.end().raw() - 1);
                    Ok(writeln!(out, "0x{start:016x} 0x{last:016x} msi")?)
                })
            }),
            FsEntry::text("type", |_, out| out.push(b"DMA\n")),
        ],
    ),
    next: |_, from| group(from).ok().map(|_| from),
    name: decimal_name,
    find: find_decimal,
};

/// Links to the functions of a group; the number is the place in the group.
static MEMBERS: Numbered = Numbered {
    entry: FsEntry::link("", |numbers| {
        let at = member(numbers[0], numbers[1]).ok_or(Errno::ENOENT)?;
        pci::link_to(at, "../../../../devices")
    }),
    next: |numbers, from| member(numbers[0], from).map(|_| from),
    name: |numbers, number, out| {
        pci::write_function_name(member(numbers[0], number).ok_or(Errno::ENOENT)?, out)
    },
    find: |numbers, name| {
        let functions = group(numbers[0]).ok()?;
        let found = functions.functions.iter().position(|&at| pci::has_name(at, name));
        found.map(|index| index as u32)
    },
};

fn group(number: u32) -> Result<Arc<IommuGroup>, Errno> {
    registry::groups().get(number as usize).cloned().ok_or(Errno::ENOENT)
}

fn member(number: u32, index: u32) -> Option<PciAddress> {
    group(number).ok()?.functions.get(index as usize).copied()
}

/// `iommu_group` of a function.
pub const GROUP_LINK: FsEntry = FsEntry::link("iommu_group", |numbers| {
    let group = registry::group_of(pci::address(numbers)?).ok_or(Errno::ENOENT)?;
    link_up(numbers, |out| Ok(write!(out, "kernel/iommu_groups/{}", group.number)?))
})
.only_if(|numbers| pci::address(numbers).is_ok_and(|at| registry::group_of(at).is_some()));

/// `driver` of a function.
pub const DRIVER_LINK: FsEntry = FsEntry::link("driver", |numbers| {
    let driver = driver_of(pci::address(numbers)?).ok_or(Errno::ENOENT)?;
    link_up(numbers, |out| Ok(write!(out, "bus/pci/drivers/{driver}")?))
})
.only_if(|numbers| pci::address(numbers).is_ok_and(|at| driver_of(at).is_some()));

/// `vfio-dev` of a function that is left to user space.
pub const DEVICE_DIRECTORY: FsEntry = FsEntry::numbered("vfio-dev", &DEVICES)
    .only_if(|numbers| pci::address(numbers).is_ok_and(|at| registry::bound(at).is_some()));

/// The device of a function, by its number in `/dev/vfio/devices`.
static DEVICES: Numbered = Numbered {
    entry: FsEntry::directory(
        "",
        &[FsEntry::text("dev", |numbers, out| {
            let (&number, _) = numbers.split_last().ok_or(Errno::ENOENT)?;
            Ok(writeln!(out, "{}:{number}", registry::DEVICE_MAJOR)?)
        })],
    ),
    next: |numbers, from| {
        let function = registry::bound(pci::address(numbers).ok()?)?;
        Some(function.number).filter(|&number| number >= from)
    },
    name: |_, number, out| Ok(write!(out, "vfio{number}")?),
    find: |numbers, name| find_decimal(numbers, name.strip_prefix(b"vfio")?),
};

/// Returns a path from the directory of a function to one below `/sys`.
fn link_up(
    numbers: &[u32],
    below: impl FnOnce(&mut Text) -> Result<(), Errno>,
) -> Result<LinkTarget<FsNode>, Errno> {
    let mut path = Text::default();
    // One more than the numbers: the first is the directory of a host bridge in `devices`.
    numbers.iter().try_for_each(|_| path.push(b"../"))?;
    path.push(b"../")?;
    below(&mut path)?;
    Ok(LinkTarget::Path(path.0))
}
