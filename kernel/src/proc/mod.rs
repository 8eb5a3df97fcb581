//! `/proc`: processes ([`process`]) and the machine, in the formats of Linux.

mod process;

use crate::fs::generated::{EntryKind, FsEntry, GeneratedFs, Text};
use crate::fs::root;
use crate::memory::zones;
use crate::percpu;
use crate::process::{SYSTEM_NAME, hwcap, last_id, random};
use crate::sched;
use crate::vm::{self, huge_pages, shared_memory};
use ::memory::Zone;
use abi::Errno;
use abi::auxv::HwCap;
use abi::clock::NANOSECONDS;
use abi::process::UtsText;
use addr::PAGE_SIZE;
use core::fmt::Write;
use program::{
    CpuTimes, HugePageSize, MemoryReport, USER_START, write_cpu_info, write_cpu_times, write_seconds,
};
use spin::Once;

static PROC: GeneratedFs = GeneratedFs {
    path: "/proc",
    name: "proc",
    magic: 0x9fa0,
    device: 6,
    file_bytes: 0,
    root: FsEntry::new("", 0o555, EntryKind::Directory(ROOT, Some(&process::PROCESSES))),
};

static COMMAND_LINE: Once<&'static str> = Once::new();

/// Registers the file system. `command_line` is that of the kernel.
pub fn init(command_line: &'static str) {
    COMMAND_LINE.call_once(|| command_line);
    root::register(&PROC);
}

const ROOT: &[FsEntry] = &[
    FsEntry::link("self", process::own),
    FsEntry::link("thread-self", process::own_thread),
    FsEntry::text("cmdline", |_, out| Ok(writeln!(out, "{}", COMMAND_LINE.get().unwrap_or(&""))?)),
    FsEntry::text("cpuinfo", cpu_info),
    FsEntry::text("filesystems", |_, out| out.push(b"nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\n")),
    FsEntry::text("loadavg", load_average),
    FsEntry::text("meminfo", memory_info),
    FsEntry::link("mounts", |_| process::path(format_args!("self/mounts"))),
    FsEntry::text("stat", cpu_statistics),
    FsEntry::directory(
        "sys",
        &[
            FsEntry::directory(
                "fs",
                &[
                    FsEntry::text("file-max", |_, out| number(out, i64::MAX as u64)),
                    FsEntry::text("nr_open", |_, out| number(out, crate::process::FILES_MAX as u64)),
                    FsEntry::text("pipe-max-size", |_, out| {
                        number(out, crate::fs::pipe::CAPACITY_MAX.into())
                    }),
                ],
            ),
            FsEntry::directory(
                "kernel",
                &[
                    FsEntry::text("cap_last_cap", |_, out| number(out, 40)),
                    FsEntry::text("hostname", |_, out| name(out, &SYSTEM_NAME.nodename)),
                    FsEntry::text("ngroups_max", |_, out| number(out, 65_536)),
                    FsEntry::text("osrelease", |_, out| name(out, &SYSTEM_NAME.release)),
                    FsEntry::text("ostype", |_, out| name(out, &SYSTEM_NAME.sysname)),
                    FsEntry::text("pid_max", |_, out| number(out, i32::MAX as u64)),
                    FsEntry::directory(
                        "random",
                        &[
                            FsEntry::text("boot_id", |_, out| {
                                static BOOT_ID: Once<[u8; 16]> = Once::new();
                                uuid(out, BOOT_ID.call_once(random::bytes))
                            }),
                            FsEntry::text("uuid", |_, out| uuid(out, &random::bytes())),
                        ],
                    ),
                    FsEntry::text("version", |_, out| name(out, &SYSTEM_NAME.version)),
                ],
            ),
            FsEntry::directory(
                "vm",
                &[
                    FsEntry::text("max_map_count", |_, out| {
                        number(out, crate::vm::address_space::VMAS_MAX as u64)
                    }),
                    FsEntry::text("mmap_min_addr", |_, out| number(out, USER_START)),
                    // Memory is promised without a limit.
                    FsEntry::text("overcommit_memory", |_, out| number(out, 1)),
                ],
            ),
        ],
    ),
    FsEntry::text("uptime", |_, out| {
        let idle = cpu_times().map(|(_, times)| times.idle).sum();
        write_seconds(out, sched::time::now())?;
        out.push(b" ")?;
        write_seconds(out, idle)?;
        out.push(b"\n")
    }),
    FsEntry::text("version", |_, out| {
        let [system, release, node] = [&SYSTEM_NAME.sysname, &SYSTEM_NAME.release, &SYSTEM_NAME.nodename];
        for part in [trimmed(system), b" version ", trimmed(release), b" (", trimmed(node), b") "] {
            out.push(part)?;
        }
        name(out, &SYSTEM_NAME.version)
    }),
    FsEntry::text("vmstat", memory_statistics),
];

fn number(out: &mut Text, value: u64) -> Result<(), Errno> {
    Ok(writeln!(out, "{value}")?)
}

fn trimmed(text: &UtsText) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn name(out: &mut Text, text: &UtsText) -> Result<(), Errno> {
    out.push(trimmed(text))?;
    out.push(b"\n")
}

/// Appends a random UUID (RFC 9562, version 4).
fn uuid(out: &mut Text, bytes: &[u8; 16]) -> Result<(), Errno> {
    let value = u128::from_be_bytes(*bytes) & !(0xf << 76 | 3 << 62) | 4 << 76 | 2 << 62;
    let part = |shift: u32, bits: u32| value >> shift & ((1 << bits) - 1);
    let (low, middle, version) = (part(96, 32), part(80, 16), part(64, 16));
    Ok(writeln!(out, "{low:08x}-{middle:04x}-{version:04x}-{:04x}-{:012x}", part(48, 16), part(0, 48))?)
}

fn cpu_info(_: &[u32], out: &mut Text) -> Result<(), Errno> {
    const NAMES: [(HwCap, &str); 10] = [
        (HwCap::FP, "fp"),
        (HwCap::ASIMD, "asimd"),
        (HwCap::AES, "aes"),
        (HwCap::PMULL, "pmull"),
        (HwCap::SHA1, "sha1"),
        (HwCap::SHA2, "sha2"),
        (HwCap::CRC32, "crc32"),
        (HwCap::ATOMICS, "atomics"),
        (HwCap::FPHP, "fphp"),
        (HwCap::ASIMDHP, "asimdhp"),
    ];
    let features = NAMES.into_iter().filter(|(feature, _)| hwcap().contains(*feature)).map(|(_, name)| name);
    for cpu in cpus() {
        let midr = arch::cpu::midr(cpu);
        write_cpu_info(out, cpu, midr, features.clone(), arch::timer::frequency())?;
    }
    Ok(())
}

/// Returns the numbers of the CPUs that run threads.
pub fn cpus() -> impl Iterator<Item = usize> + Clone {
    percpu::online_indices().filter(|&cpu| percpu::is_online(cpu))
}

fn cpu_times() -> impl Iterator<Item = (usize, CpuTimes)> + Clone {
    let now = sched::time::now();
    cpus().map(move |cpu| {
        let idle = sched::idle_time(cpu);
        (cpu, CpuTimes { busy: now.saturating_sub(idle), idle })
    })
}

/// `stat`, without counts of interrupts and context switches.
fn cpu_statistics(_: &[u32], out: &mut Text) -> Result<(), Errno> {
    write_cpu_times(out, cpu_times())?;
    let boot = sched::time::counter_start() / NANOSECONDS;
    writeln!(out, "btime {boot}\nprocesses {}", last_id())?;
    Ok(writeln!(out, "procs_running {}\nprocs_blocked 0", sched::runnable())?)
}

/// `loadavg`: no averages are kept.
fn load_average(_: &[u32], out: &mut Text) -> Result<(), Errno> {
    Ok(writeln!(out, "0.00 0.00 0.00 {}/{} {}", sched::runnable(), sched::threads(), last_id())?)
}

fn memory_info(_: &[u32], out: &mut Text) -> Result<(), Errno> {
    let [low, high] = [Zone::Low, Zone::High].map(zones::stats);
    let (total, free) = (low.total + high.total, low.free() + high.free());
    let (small, large) = (huge_pages::counts(HugePageSize::Size2M), huge_pages::counts(HugePageSize::Size1G));
    let pages = |count: u64, size: HugePageSize| count * (size.bytes() / PAGE_SIZE);
    let report = MemoryReport {
        total,
        free,
        shared: shared_memory::page_count(),
        anonymous_blocks: pages(vm::pages::block_count(), HugePageSize::Size2M),
        huge: (small.total, small.reserved),
        all_huge: pages(small.total, HugePageSize::Size2M) + pages(large.total, HugePageSize::Size1G),
    };
    Ok(report.write(out)?)
}

/// `vmstat`: free pages and those of files; nothing is read from or written to a disk.
fn memory_statistics(_: &[u32], out: &mut Text) -> Result<(), Errno> {
    let free: u64 = [Zone::Low, Zone::High].map(|zone| zones::stats(zone).free()).iter().sum();
    writeln!(out, "nr_free_pages {free}\nnr_shmem {}", shared_memory::page_count())?;
    out.push(b"pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_has_version_and_variant() {
        let text = |byte| {
            let mut text = Text::default();
            uuid(&mut text, &[byte; 16]).unwrap();
            String::from_utf8(text.0).unwrap()
        };
        assert_eq!(text(0), "00000000-0000-4000-8000-000000000000\n");
        assert_eq!(text(0xff), "ffffffff-ffff-4fff-bfff-ffffffffffff\n");
    }
}
