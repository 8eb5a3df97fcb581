//! The formats of Linux's files in `/proc` (`proc(5)`), for arm64.

use abi::memory::Prot;
use abi::process::{RLIM_INFINITY, RLIM_NLIMITS, RLimit};
use addr::{AddrRange, UserVa};
use core::fmt::{self, Write};

/// The unit of times (`USER_HZ`): a hundredth of a second.
const TICK: u64 = 10_000_000;

/// The state of a process or a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunState {
    /// Runs or waits for a CPU.
    Running,
    /// Waits.
    Sleeping,
    /// Stopped by a signal.
    Stopped,
    /// Has exited.
    Zombie,
}

impl RunState {
    fn letter(self) -> char {
        match self {
            Self::Running => 'R',
            Self::Sleeping => 'S',
            Self::Stopped => 'T',
            Self::Zombie => 'Z',
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Sleeping => "sleeping",
            Self::Stopped => "stopped",
            Self::Zombie => "zombie",
        }
    }
}

/// The information of `stat` and `status` about a process, or a thread of it. Times are in nanoseconds, sizes
/// in pages.
#[derive(Clone, Copy, Debug)]
pub struct ProcessReport<'a> {
    /// The process or thread id.
    pub id: u32,
    /// The process id.
    pub process: u32,
    /// The name, without a terminator.
    pub name: &'a [u8],
    /// The state.
    pub state: RunState,
    /// The parent.
    pub parent: u32,
    /// The process group.
    pub group: u32,
    /// The session.
    pub session: u32,
    /// The number of threads.
    pub threads: usize,
    /// The CPU time.
    pub cpu_time: u64,
    /// The start, after boot.
    pub started: u64,
    /// Pages of the address space.
    pub total_pages: u64,
    /// Pages with a frame.
    pub resident_pages: u64,
    /// Of the resident pages, those of files.
    pub shared_pages: u64,
    /// Pages of locked mappings.
    pub locked_pages: u64,
    /// Pages of private writable mappings.
    pub data_pages: u64,
    /// Pages of executable mappings.
    pub text_pages: u64,
    /// The first stack pointer.
    pub stack: UserVa,
    /// The strings of the arguments.
    pub arguments: AddrRange<UserVa>,
    /// The strings of the environment.
    pub environment: AddrRange<UserVa>,
    /// The mask of `umask`.
    pub mode_mask: u32,
    /// The size of the file descriptor table.
    pub descriptors: usize,
    /// Pending signals of the thread and of the process, blocked, ignored and handled ones.
    pub signals: [u64; 5],
    /// A bit for each CPU.
    pub cpus: u64,
}

/// Writes a name: a newline and a backslash are escaped, and bytes that are not UTF-8 are replaced.
fn write_name(out: &mut dyn Write, name: &[u8]) -> fmt::Result {
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => out.write_str("\\n")?,
                '\\' => out.write_str("\\\\")?,
                other => out.write_char(other)?,
            }
        }
        if !chunk.invalid().is_empty() {
            out.write_char('?')?;
        }
    }
    Ok(())
}

impl ProcessReport<'_> {
    /// Writes `stat`: one line of 52 fields. Those of things that do not exist are 0.
    pub fn write_stat(&self, out: &mut dyn Write) -> fmt::Result {
        const PAGE: u64 = addr::PAGE_SIZE;
        const SIGCHLD: u32 = 17;
        write!(out, "{} (", self.id)?;
        write_name(out, self.name)?;
        let Self { parent, group, session, threads, .. } = self;
        write!(out, ") {} {parent} {group} {session} 0 -1 0 0 0 0 0", self.state.letter())?;
        write!(out, " {} 0 0 0 20 0 {threads} 0", self.cpu_time / TICK)?;
        write!(out, " {} {} {}", self.started / TICK, self.total_pages * PAGE, self.resident_pages)?;
        write!(out, " {} 0 0 {} 0 0", u64::MAX, self.stack.raw())?;
        let [pending, _, blocked, ignored, handled] = self.signals.map(|set| set & 0x7fff_ffff);
        write!(out, " {pending} {blocked} {ignored} {handled} 0 0 0 {SIGCHLD} 0 0 0 0 0 0 0 0 0")?;
        for range in [self.arguments, self.environment] {
            write!(out, " {} {}", range.start().raw(), range.end().raw())?;
        }
        writeln!(out, " 0")
    }

    /// Writes `statm`, in pages.
    pub fn write_statm(&self, out: &mut dyn Write) -> fmt::Result {
        let Self { total_pages, resident_pages, shared_pages, text_pages, data_pages, .. } = self;
        writeln!(out, "{total_pages} {resident_pages} {shared_pages} {text_pages} 0 {data_pages} 0")
    }

    /// Writes `status`.
    pub fn write_status(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "Name:\t")?;
        write_name(out, self.name)?;
        let Self { id, process, parent, group, session, .. } = self;
        writeln!(
            out,
            "\nUmask:\t{:04o}\nState:\t{} ({})",
            self.mode_mask,
            self.state.letter(),
            self.state.name()
        )?;
        writeln!(out, "Tgid:\t{process}\nNgid:\t0\nPid:\t{id}\nPPid:\t{parent}\nTracerPid:\t0")?;
        writeln!(out, "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t{}\nGroups:\t ", self.descriptors)?;
        writeln!(out, "NStgid:\t{process}\nNSpid:\t{id}\nNSpgid:\t{group}\nNSsid:\t{session}\nKthread:\t0")?;
        if self.state != RunState::Zombie {
            let file = self.shared_pages;
            for (name, pages) in [
                ("VmSize", self.total_pages),
                ("VmLck", self.locked_pages),
                ("VmRSS", self.resident_pages),
                ("RssAnon", self.resident_pages - file),
                ("RssFile", file),
                ("VmData", self.data_pages),
                ("VmExe", self.text_pages),
                ("VmSwap", 0),
            ] {
                writeln!(out, "{name}:\t{:8} kB", pages * 4)?;
            }
        }
        writeln!(out, "Threads:\t{}", self.threads)?;
        for (name, set) in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"].into_iter().zip(self.signals) {
            writeln!(out, "{name}:\t{set:016x}")?;
        }
        const CAPABILITIES: u64 = (1 << 41) - 1;
        writeln!(out, "CapInh:\t{:016x}", 0)?;
        for name in ["CapPrm", "CapEff", "CapBnd"] {
            writeln!(out, "{name}:\t{CAPABILITIES:016x}")?;
        }
        writeln!(out, "CapAmb:\t{:016x}\nNoNewPrivs:\t0\nSeccomp:\t0", 0)?;
        write!(out, "Cpus_allowed:\t{:x}\nCpus_allowed_list:\t", self.cpus)?;
        write_cpu_list(out, self.cpus)?;
        writeln!(out, "\nMems_allowed:\t1\nMems_allowed_list:\t0")
    }
}

/// The names and units in `limits`, by resource.
const LIMITS: [(&str, &str); RLIM_NLIMITS as usize] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

/// Writes `limits`.
pub fn write_limits(out: &mut dyn Write, limit: impl Fn(u64) -> RLimit) -> fmt::Result {
    writeln!(out, "{:25} {:20} {:20} {:10}", "Limit", "Soft Limit", "Hard Limit", "Units")?;
    for (resource, (name, unit)) in LIMITS.iter().enumerate() {
        write!(out, "{name:25} ")?;
        let RLimit { current, maximum } = limit(resource as u64);
        for value in [current, maximum] {
            match value {
                RLIM_INFINITY => write!(out, "{:20} ", "unlimited")?,
                value => write!(out, "{value:<20} ")?,
            }
        }
        match *unit {
            "" => writeln!(out)?,
            unit => writeln!(out, "{unit:10}")?,
        }
    }
    Ok(())
}

/// Writes a set of CPUs as ranges: `0-3,5`.
pub fn write_cpu_list(out: &mut dyn Write, cpus: u64) -> fmt::Result {
    let mut first = 0;
    let mut separator = "";
    while first < 64 {
        let len = (cpus >> first).trailing_ones();
        match len {
            0 => {
                first += 1;
                continue;
            }
            1 => write!(out, "{separator}{first}")?,
            _ => write!(out, "{separator}{first}-{}", first + len - 1)?,
        }
        separator = ",";
        first += len;
    }
    Ok(())
}

/// A line of `maps`.
#[derive(Clone, Copy, Debug)]
pub struct MapLine<'a> {
    /// The addresses.
    pub range: AddrRange<UserVa>,
    /// The protection.
    pub prot: Prot,
    /// Whether writes reach the object.
    pub is_shared: bool,
    /// The offset in the object.
    pub offset: u64,
    /// `st_dev` and the inode number.
    pub file: (u64, u64),
    /// The path, or the purpose in brackets.
    pub name: &'a [u8],
}

impl MapLine<'_> {
    /// Writes the line up to the name, which the caller appends, and a newline.
    pub fn write_head(&self, out: &mut dyn Write) -> fmt::Result {
        const NAME_COLUMN: usize = 73;
        let mut counted = CountedText { out, len: 0 };
        let right = |flag, letter| if self.prot.contains(flag) { letter } else { '-' };
        let (start, end) = (self.range.start().raw(), self.range.end().raw());
        write!(counted, "{start:08x}-{end:08x} ")?;
        write!(counted, "{}{}", right(Prot::READ, 'r'), right(Prot::WRITE, 'w'))?;
        write!(counted, "{}{}", right(Prot::EXEC, 'x'), if self.is_shared { 's' } else { 'p' })?;
        let (device, inode) = self.file;
        let (major, minor) = (device >> 8 & 0xfff, device & 0xff);
        write!(counted, " {:08x} {major:02x}:{minor:02x} {inode} ", self.offset)?;
        let len = counted.len;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(out, "{:1$}", "", NAME_COLUMN.saturating_sub(len))
    }
}

struct CountedText<'a> {
    out: &'a mut dyn Write,
    len: usize,
}

impl Write for CountedText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.len += text.len();
        self.out.write_str(text)
    }
}

/// The memory of the machine, in pages.
#[derive(Clone, Copy, Debug)]
pub struct MemoryReport {
    /// All memory.
    pub total: u64,
    /// Free memory.
    pub free: u64,
    /// Pages of files in memory.
    pub shared: u64,
    /// Pages in blocks of anonymous memory.
    pub anonymous_blocks: u64,
    /// Huge pages of 2 MiB, and those of them that are not mapped.
    pub huge: (u64, u64),
    /// Pages in huge pages of all sizes.
    pub all_huge: u64,
}

impl MemoryReport {
    /// Writes `meminfo`. There are no caches to reclaim, and there is no swap.
    pub fn write(&self, out: &mut dyn Write) -> fmt::Result {
        for (name, pages) in [
            ("MemTotal:", self.total),
            ("MemFree:", self.free),
            ("MemAvailable:", self.free),
            ("Buffers:", 0),
            ("Cached:", self.shared),
            ("SwapCached:", 0),
            ("SwapTotal:", 0),
            ("SwapFree:", 0),
            ("Shmem:", self.shared),
            ("SReclaimable:", 0),
            ("AnonHugePages:", self.anonymous_blocks),
        ] {
            writeln!(out, "{name:16}{:8} kB", pages * 4)?;
        }
        let (total, unused) = self.huge;
        // All of them are reserved, and allocated beyond a pool of 0.
        for (name, count) in [("Total:", total), ("Free: ", unused), ("Rsvd: ", unused), ("Surp: ", total)] {
            writeln!(out, "HugePages_{name}{count:8}")?;
        }
        writeln!(out, "Hugepagesize:       2048 kB\nHugetlb:        {:8} kB", self.all_huge * 4)
    }
}

/// The times of a CPU, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTimes {
    /// Not idle.
    pub busy: u64,
    /// Idle.
    pub idle: u64,
}

/// Writes the lines of the CPUs in `stat`: their sum, and each by its number. All time that is not idle is
/// user time.
pub fn write_cpu_times(
    out: &mut dyn Write,
    cpus: impl Iterator<Item = (usize, CpuTimes)> + Clone,
) -> fmt::Result {
    let sum = cpus.clone().fold(CpuTimes::default(), |sum, (_, times)| CpuTimes {
        busy: sum.busy + times.busy,
        idle: sum.idle + times.idle,
    });
    let mut line = |name: fmt::Arguments<'_>, times: CpuTimes| {
        writeln!(out, "cpu{name} {} 0 0 {} 0 0 0 0 0 0", times.busy / TICK, times.idle / TICK)
    };
    line(format_args!(" "), sum)?;
    cpus.into_iter().try_for_each(|(number, times)| line(format_args!("{number}"), times))
}

/// Writes seconds with two decimal places, as in `uptime`.
pub fn write_seconds(out: &mut dyn Write, nanoseconds: u64) -> fmt::Result {
    let ticks = nanoseconds / TICK;
    write!(out, "{}.{:02}", ticks / 100, ticks % 100)
}

/// Writes the entry of a CPU in `cpuinfo`: its number, MIDR_EL1, the names of its features, and the frequency
/// of its timer.
pub fn write_cpu_info(
    out: &mut dyn Write,
    number: usize,
    midr: u64,
    features: impl Iterator<Item = &'static str>,
    frequency: u64,
) -> fmt::Result {
    let (whole, fraction) = (frequency / 500_000, frequency / 5_000 % 100);
    write!(out, "processor\t: {number}\nBogoMIPS\t: {whole}.{fraction:02}\nFeatures\t:")?;
    for feature in features {
        write!(out, " {feature}")?;
    }
    let field = |shift: u32, bits: u32| midr >> shift & ((1 << bits) - 1);
    writeln!(out, "\nCPU implementer\t: 0x{:02x}\nCPU architecture: 8", field(24, 8))?;
    writeln!(out, "CPU variant\t: 0x{:x}\nCPU part\t: 0x{:03x}", field(20, 4), field(4, 12))?;
    writeln!(out, "CPU revision\t: {}\n", field(0, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
        let mut text = String::new();
        write(&mut text).unwrap();
        text
    }

    fn range(start: u64, end: u64) -> AddrRange<UserVa> {
        AddrRange::new(UserVa::new(start), UserVa::new(end))
    }

    fn report() -> ProcessReport<'static> {
        ProcessReport {
            id: 11,
            process: 10,
            name: b"a) b\n",
            state: RunState::Sleeping,
            parent: 1,
            group: 9,
            session: 8,
            threads: 2,
            cpu_time: 1_239_999_999,
            started: 50_000_000,
            total_pages: 765,
            resident_pages: 437,
            shared_pages: 409,
            locked_pages: 2,
            data_pages: 123,
            text_pages: 5,
            stack: UserVa::new(0xffff_f000),
            arguments: range(0x1000, 0x1010),
            environment: range(0x1010, 0x1020),
            mode_mask: 0o22,
            descriptors: 64,
            signals: [1, 2, 4, 8, 1 << 33],
            cpus: 0b1111,
        }
    }

    /// The text of a line by its name.
    fn field<'t>(text: &'t str, name: &str) -> &'t str {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    #[test]
    fn stat_has_52_fields_at_their_places() {
        let text = written(|out| report().write_stat(out));
        let (head, rest) = text.trim_end().rsplit_once(") ").unwrap();
        assert_eq!(head, "11 (a) b\\n");
        let fields: Vec<&str> = rest.split(' ').collect();
        assert_eq!(fields.len(), 50);
        // By the numbers in proc(5), from 3 on.
        let at = |number: usize| fields[number - 3];
        assert_eq!([3, 4, 5, 6, 7, 8].map(at), ["S", "1", "9", "8", "0", "-1"]);
        assert_eq!([14, 15, 18, 19, 20, 22].map(at), ["123", "0", "20", "0", "2", "5"]);
        assert_eq!([23, 24, 25].map(at), ["3133440", "437", "18446744073709551615"]);
        assert_eq!([28, 31, 32, 33, 34, 38].map(at), ["4294963200", "1", "4", "8", "0", "17"]);
        assert_eq!([48, 49, 50, 51, 52].map(at), ["4096", "4112", "4112", "4128", "0"]);
    }

    #[test]
    fn status_has_one_field_per_line() {
        let text = written(|out| report().write_status(out));
        for (name, value) in [
            ("Name", "\ta) b\\n"),
            ("Umask", "\t0022"),
            ("State", "\tS (sleeping)"),
            ("Tgid", "\t10"),
            ("Pid", "\t11"),
            ("Uid", "\t0\t0\t0\t0"),
            ("VmSize", "\t    3060 kB"),
            ("VmLck", "\t       8 kB"),
            ("RssAnon", "\t     112 kB"),
            ("Threads", "\t2"),
            ("SigCgt", "\t0000000200000000"),
            ("CapEff", "\t000001ffffffffff"),
            ("Cpus_allowed", "\tf"),
            ("Cpus_allowed_list", "\t0-3"),
        ] {
            assert_eq!(field(&text, name), value, "{name}");
        }
        let zombie = ProcessReport { state: RunState::Zombie, ..report() };
        assert!(!written(|out| zombie.write_status(out)).contains("Vm"));
    }

    /// The first lines are of a Linux machine.
    #[test]
    fn limits_are_padded_and_have_units() {
        let limit = |resource| match resource {
            1 => RLimit { current: 4096, maximum: RLIM_INFINITY },
            _ => RLimit { current: RLIM_INFINITY, maximum: RLIM_INFINITY },
        };
        let text = written(|out| write_limits(out, limit));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "Limit                     Soft Limit           Hard Limit           Units     "
        );
        assert_eq!(
            lines[1],
            "Max cpu time              unlimited            unlimited            seconds   "
        );
        assert_eq!(
            lines[2],
            "Max file size             4096                 unlimited            bytes     "
        );
        assert_eq!(lines[14], "Max nice priority         unlimited            unlimited            ");
        assert_eq!(lines.len(), 17);
    }

    #[test]
    fn cpu_lists_have_ranges() {
        let cases =
            [(0, ""), (1, "0"), (0b1111, "0-3"), (0b10_1111, "0-3,5"), (1 << 63, "63"), (u64::MAX, "0-63")];
        for (cpus, text) in cases {
            assert_eq!(written(|out| write_cpu_list(out, cpus)), text);
        }
    }

    /// The first line is of a Linux machine.
    #[test]
    fn map_lines_are_padded_to_the_name() {
        let line = MapLine {
            range: range(0x55be_d252_e000, 0x55be_d253_0000),
            prot: Prot::READ,
            is_shared: false,
            offset: 0,
            file: (0xfe00, 247_030),
            name: b"/usr/bin/cat",
        };
        let expected = "55bed252e000-55bed2530000 r--p 00000000 fe:00 247030                     ";
        assert_eq!(written(|out| line.write_head(out)), expected);
        let line =
            MapLine { prot: Prot::READ | Prot::WRITE, is_shared: true, file: (0, 0), name: b"", ..line };
        let expected = "55bed252e000-55bed2530000 rw-s 00000000 00:00 0 ";
        assert_eq!(written(|out| line.write_head(out)), expected);
    }

    #[test]
    fn machine_files_match_linux() {
        let memory = MemoryReport {
            total: 6_182_927,
            free: 3_463_424,
            shared: 1,
            anonymous_blocks: 1024,
            huge: (8, 3),
            all_huge: 8 * 512,
        };
        let text = written(|out| memory.write(out));
        let huge = "AnonHugePages:      4096 kB\nHugePages_Total:       8\nHugePages_Free:        3\n\
                    HugePages_Rsvd:        3\nHugePages_Surp:        8\nHugepagesize:       2048 kB\n\
                    Hugetlb:           16384 kB\n";
        assert!(text.ends_with(huge), "{text}");
        assert!(text.starts_with("MemTotal:       24731708 kB\nMemFree:        13853696 kB\n"), "{text}");
        let second = 1_000_000_000;
        let times =
            [(0, CpuTimes { busy: second, idle: 2 * second }), (1, CpuTimes { busy: 0, idle: second })];
        let text = written(|out| write_cpu_times(out, times.into_iter()));
        let expected =
            "cpu  100 0 0 300 0 0 0 0 0 0\ncpu0 100 0 0 200 0 0 0 0 0 0\ncpu1 0 0 0 100 0 0 0 0 0 0\n";
        assert_eq!(text, expected);
        assert_eq!(written(|out| write_seconds(out, 16_834_449_999_999)), "16834.44");
    }

    /// A Cortex-A72 at 62.5 MHz, as Linux prints it.
    #[test]
    fn cpu_info_describes_the_midr() {
        let features = ["fp", "asimd", "crc32"].into_iter();
        let text = written(|out| write_cpu_info(out, 1, 0x410f_d083, features, 62_500_000));
        let expected = "processor\t: 1\nBogoMIPS\t: 125.00\nFeatures\t: fp asimd crc32\nCPU implementer\t: 0x41\n\
            CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n";
        assert_eq!(text, expected);
    }
}
