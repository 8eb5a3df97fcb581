//! PCI functions: a directory for each, in that of the bridge or host bridge above it.
//!
//! The numbers of a function's directory are that of its host bridge, and the requester id of each bridge on
//! the way and of the function itself.

use super::vfio;
use crate::devices::pci::{PciAddress, PciHost, host};
use crate::fs::generated::{EntryKind, FsEntry, Numbered, Text};
use crate::fs::root::FsNode;
use abi::Errno;
use core::fmt::Write;
use drivers::pcie::{Bar, BarKind, ConfigSpace, Function, Host, LinkType};
use program::LinkTarget;

pub static HOSTS: Numbered = Numbered {
    entry: FsEntry::new("", 0o555, EntryKind::Directory(&[], Some(&FUNCTIONS))),
    next: |_, from| host(from as usize).map(|_| from),
    name: |_, number, out| write_host_name(&host_of(number)?.lock(), out),
    find: |_, name| {
        (0..).map_while(|number| Some((number, host(number as usize)?))).find_map(|(number, host)| {
            let mut text = Text::default();
            (write_host_name(&host.lock(), &mut text).is_ok() && text.0 == name).then_some(number)
        })
    },
};

static FUNCTIONS: Numbered = Numbered {
    entry: FsEntry::new("", 0o555, EntryKind::Directory(FUNCTION, Some(&FUNCTIONS))),
    next: |numbers, from| {
        let host = host(numbers[0] as usize)?.lock();
        let above = numbers[1..].last().copied();
        let is_below = |function: &&Function| {
            host.bridge_above(function).map(|bridge| u32::from(bridge.requester())) == above
        };
        let below =
            host.functions().iter().filter(is_below).map(|function| u32::from(function.bdf.requester()));
        below.filter(|&id| id >= from).min()
    },
    name: |numbers, number, out| {
        with_function(numbers[0], number, |host, function| write_name(host, function, out))
    },
    find: |numbers, name| find(numbers[0], name),
};

/// Links to all functions; the number has the host bridge in its upper half.
pub static LINKS: Numbered = Numbered {
    entry: FsEntry::link("", link),
    next: |_, from| {
        let here = (from >> 16..).map_while(|number| Some((number, host(number as usize)?)));
        here.filter_map(|(number, host)| {
            let ids = host.lock();
            let ids =
                ids.functions().iter().map(|function| number << 16 | u32::from(function.bdf.requester()));
            ids.filter(|&id| id >= from).min()
        })
        .next()
    },
    name: |_, number, out| {
        with_function(number >> 16, number & 0xffff, |host, function| write_name(host, function, out))
    },
    find: |_, name| {
        let hosts = (0..).take_while(|&number| host(number as usize).is_some());
        hosts.filter_map(|number| Some(number << 16 | find(number, name)?)).next()
    },
};

const FUNCTION: &[FsEntry] = &[
    FsEntry::text("class", |numbers, out| {
        with(numbers, |_, function| Ok(writeln!(out, "0x{:06x}", function.class.raw())?))
    }),
    FsEntry::new("config", 0o444, EntryKind::Bytes(config)),
    FsEntry::text("device", |numbers, out| {
        with(numbers, |_, function| Ok(writeln!(out, "0x{:04x}", function.device)?))
    }),
    FsEntry::text("irq", |numbers, out| {
        with(numbers, |host, function| {
            let number = host.interrupt(function).map_or(0, |interrupt| interrupt.id.into());
            Ok(writeln!(out, "{number}")?)
        })
    }),
    FsEntry::text("modalias", |numbers, out| {
        with(numbers, |host, function| {
            write_alias(host, function, out)?;
            out.push(b"\n")
        })
    }),
    FsEntry::text("numa_node", |_, out| out.push(b"-1\n")),
    FsEntry::text("resource", |numbers, out| {
        with(numbers, |_, function| {
            // The BARs, and the expansion ROM.
            function.bars.iter().chain([&None]).try_for_each(|bar| write_resource(bar.as_ref(), out))
        })
    }),
    FsEntry::text("revision", |numbers, out| {
        with(numbers, |_, function| Ok(writeln!(out, "0x{:02x}", function.revision)?))
    }),
    FsEntry::link("subsystem", |numbers| {
        let mut up = Text::default();
        numbers.iter().try_for_each(|_| up.push(b"../"))?;
        up.push(b"../bus/pci")?;
        Ok(LinkTarget::Path(up.0))
    }),
    FsEntry::text("subsystem_device", |numbers, out| {
        with(numbers, |host, function| Ok(writeln!(out, "0x{:04x}", subsystem(host, function).1)?))
    }),
    FsEntry::text("subsystem_vendor", |numbers, out| {
        with(numbers, |host, function| Ok(writeln!(out, "0x{:04x}", subsystem(host, function).0)?))
    }),
    FsEntry::text("uevent", |numbers, out| {
        with(numbers, |host, function| {
            let (vendor, device) = subsystem(host, function);
            writeln!(
                out,
                "PCI_CLASS={:04X}\nPCI_ID={:04X}:{:04X}",
                function.class.raw(),
                function.vendor,
                function.device
            )?;
            write!(out, "PCI_SUBSYS_ID={vendor:04X}:{device:04X}\nPCI_SLOT_NAME=")?;
            write_name(host, function, out)?;
            write!(out, "\nMODALIAS=")?;
            write_alias(host, function, out)?;
            out.push(b"\n")
        })
    }),
    FsEntry::text("vendor", |numbers, out| {
        with(numbers, |_, function| Ok(writeln!(out, "0x{:04x}", function.vendor)?))
    }),
    vfio::DRIVER_LINK,
    vfio::GROUP_LINK,
    vfio::DEVICE_DIRECTORY,
];

fn host_of(number: u32) -> Result<&'static PciHost, Errno> {
    host(number as usize).ok_or(Errno::ENOENT)
}

/// Calls `visit` with a function of a host bridge. The host bridge is locked.
fn with_function<R>(
    number: u32,
    requester: u32,
    visit: impl FnOnce(&Host, &Function) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let host = host_of(number)?.lock();
    let function = host.functions().iter().find(|function| u32::from(function.bdf.requester()) == requester);
    visit(&host, function.ok_or(Errno::ENOENT)?)
}

/// Calls `visit` with the function of a directory.
fn with<R>(numbers: &[u32], visit: impl FnOnce(&Host, &Function) -> Result<R, Errno>) -> Result<R, Errno> {
    let (first, last) = numbers.first().zip(numbers.last()).ok_or(Errno::ENOENT)?;
    with_function(*first, *last, visit)
}

fn write_host_name(host: &Host, out: &mut Text) -> Result<(), Errno> {
    let description = host.description();
    Ok(write!(out, "pci{:04x}:{:02x}", description.domain, description.buses.start())?)
}

fn write_name(host: &Host, function: &Function, out: &mut Text) -> Result<(), Errno> {
    Ok(write!(out, "{:04x}:{}", host.description().domain, function.bdf)?)
}

/// Returns the requester id of the function with this name.
fn find(number: u32, name: &[u8]) -> Option<u32> {
    let host = host(number as usize)?.lock();
    let function = host.functions().iter().find(|function| {
        let mut text = Text::default();
        write_name(&host, function, &mut text).is_ok() && text.0 == name
    });
    function.map(|function| u32::from(function.bdf.requester()))
}

/// Returns the function of a directory.
pub fn address(numbers: &[u32]) -> Result<PciAddress, Errno> {
    let host = *numbers.first().ok_or(Errno::ENOENT)? as u16;
    with(numbers, |_, function| Ok(PciAddress { host, bdf: function.bdf }))
}

/// Appends the name of a function.
pub fn write_function_name(at: PciAddress, out: &mut Text) -> Result<(), Errno> {
    with_function(at.host.into(), at.bdf.requester().into(), |host, function| write_name(host, function, out))
}

/// Returns whether a function has this name.
pub fn has_name(at: PciAddress, name: &[u8]) -> bool {
    let mut text = Text::default();
    write_function_name(at, &mut text).is_ok() && text.0 == name
}

fn link(numbers: &[u32]) -> Result<LinkTarget<FsNode>, Errno> {
    let (host, requester) = (numbers[0] >> 16, numbers[0] & 0xffff);
    link_to_function(host, requester, "../../../devices")
}

/// Returns a link to the directory of a function, from a directory with this path to `/sys/devices`.
pub fn link_to(at: PciAddress, devices: &str) -> Result<LinkTarget<FsNode>, Errno> {
    link_to_function(at.host.into(), at.bdf.requester().into(), devices)
}

fn link_to_function(host: u32, requester: u32, devices: &str) -> Result<LinkTarget<FsNode>, Errno> {
    with_function(host, requester, |host, function| {
        let mut parts = arrayvec::ArrayVec::<&Function, 8>::new();
        let mut at = Some(function);
        while let Some(function) = at {
            parts.try_push(function).map_err(|_| Errno::ENAMETOOLONG)?;
            at = host.bridge_above(function).and_then(|bridge| host.function(bridge));
        }
        let mut text = Text::default();
        text.push(devices.as_bytes())?;
        text.push(b"/")?;
        write_host_name(host, &mut text)?;
        for function in parts.iter().rev() {
            text.push(b"/")?;
            write_name(host, function, &mut text)?;
        }
        Ok(LinkTarget::Path(text.0))
    })
}

/// Reads configuration space; that of a conventional function has 256 bytes.
fn config(numbers: &[u32], offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
    with(numbers, |host, function| {
        let end = if function.link == LinkType::Conventional { 0x100 } else { 0x1000 };
        let len = (to.len() as u64).min(end - offset.min(end)) as usize;
        for (byte, register) in to[..len].iter_mut().zip(offset..) {
            *byte = host.config().read8(function.bdf, register as u16);
        }
        Ok(len)
    })
}

/// Returns the subsystem's vendor and device. Bridges have none at this place.
fn subsystem(host: &Host, function: &Function) -> (u16, u16) {
    const SUBSYSTEM: u16 = 0x2c;
    if function.bridge.is_some() {
        return (0, 0);
    }
    let register = |offset| host.config().read16(function.bdf, SUBSYSTEM + offset);
    (register(0), register(2))
}

fn write_alias(host: &Host, function: &Function, out: &mut Text) -> Result<(), Errno> {
    let ((vendor, device), class) = (subsystem(host, function), function.class.raw());
    write!(out, "pci:v{:08X}d{:08X}sv{vendor:08X}sd{device:08X}", function.vendor, function.device)?;
    Ok(write!(out, "bc{:02X}sc{:02X}i{:02X}", class >> 16, class >> 8 & 0xff, class & 0xff)?)
}

/// Appends a line of `resource`: the first and last address, and Linux's flags (`IORESOURCE_*`).
fn write_resource(bar: Option<&Bar>, out: &mut Text) -> Result<(), Errno> {
    let range = bar.and_then(|bar| Some((bar.registers?, bar.kind)));
    let (start, last, flags) = match range {
        Some((registers, BarKind::Memory { is_64bit, prefetchable })) => {
            let wide = if is_64bit { 0x10_0004 } else { 0 };
            let prefetch = if prefetchable { 0x2008 } else { 0 };
            (registers.start().raw(), registers.end().raw() - 1, 0x4_0200 | wide | prefetch)
        }
        Some((_, BarKind::Io)) | None => (0, 0, 0),
    };
    Ok(writeln!(out, "0x{start:016x} 0x{last:016x} 0x{flags:016x}")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{AddrRange, PhysAddr};

    #[test]
    fn resources_have_linux_flags() {
        let line = |bar: Option<Bar>| {
            let mut text = Text::default();
            write_resource(bar.as_ref(), &mut text).unwrap();
            String::from_utf8(text.0).unwrap()
        };
        let registers = AddrRange::from_len(PhysAddr::new(0x1000_0000), 0x10_0000);
        let bar = |is_64bit, prefetchable| {
            Some(Bar { kind: BarKind::Memory { is_64bit, prefetchable }, size: 0x10_0000, registers })
        };
        let unused = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        assert_eq!(line(None), unused);
        assert_eq!(line(Some(Bar { kind: BarKind::Io, size: 32, registers: None })), unused);
        assert_eq!(line(bar(false, false)), "0x0000000010000000 0x00000000100fffff 0x0000000000040200\n");
        assert_eq!(line(bar(true, true)), "0x0000000010000000 0x00000000100fffff 0x000000000014220c\n");
    }
}
