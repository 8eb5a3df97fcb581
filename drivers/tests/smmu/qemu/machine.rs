//! QEMU as the SMMU of a test: the test shares its RAM, and drives its registers and devices over the qtest
//! protocol. Its only CPU waits for interrupts; there is no guest kernel.

use addr::StreamId;
use drivers::fake::FakeRegisters;
use smmu_spec::AccessKind;
use smmu_spec::model::TransactionResult;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const RAM: u64 = 0x4000_0000;
const RAM_BYTES: u64 = 512 << 20;
const SMMU: u64 = 0x905_0000;
const ECAM: u64 = 0x40_1000_0000;
/// Addresses of the devices' registers, 1 MiB each.
const BARS: u64 = 0x1000_0000;
/// Streams of the devices, which are functions 0 of these slots.
pub const STREAMS: [u32; 4] = [8, 16, 24, 32];

/// Registers written by the driver, with their sizes, in the order in which changes are copied to the SMMU:
/// queue bases before the enables, the producer index that starts execution last.
const WRITTEN: [(usize, u64); 16] = [
    (0x44, 4), // GBPA
    (0x28, 4), // CR1
    (0x2c, 4), // CR2
    (0x80, 8), // STRTAB_BASE
    (0x88, 4), // STRTAB_BASE_CFG
    (0x90, 8), // CMDQ_BASE
    (0x9c, 4), // CMDQ_CONS
    (0xa0, 8), // EVENTQ_BASE
    (0x1_00a8, 4),
    (0x1_00ac, 4),
    (0x60, 4), // GERROR, never written
    (0x64, 4), // GERRORN
    (0x50, 4), // IRQ_CTRL
    (0x20, 4), // CR0
    (0x98, 4), // CMDQ_PROD
    (0xb4, 4), // EVENTQ_IRQ_CFG1
];
/// Registers written by the SMMU.
const READ: [usize; 7] = [0x24, 0x44, 0x54, 0x60, 0x9c, 0x1_00a8, 0x98];

pub struct Qemu {
    process: Child,
    link: RefCell<BufReader<UnixStream>>,
    directory: PathBuf,
    ram: &'static [AtomicU64],
    known: RefCell<BTreeMap<usize, u64>>,
    /// The model's outcomes of the next accesses.
    pub expected: RefCell<VecDeque<TransactionResult>>,
}

impl Qemu {
    /// QEMU's SMMU with both stages (0), with stage 1 (1), with stage 2 (2).
    pub fn start(stages: usize) -> Self {
        let directory = std::env::temp_dir().join(format!("tessera-smmu-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = |name: &str| directory.join(name).display().to_string();
        let memory = format!("memory-backend-file,id=ram,size=512M,share=on,mem-path={}", path("ram"));
        let socket = format!("unix:{},server=on,wait=off", path("qtest"));
        // A loop of WFI.
        let code = "loader,addr=0x48000000,data=0x17ffffffd503207f,data-len=8";
        let mut command = Command::new("timeout");
        let board = ["virt", "virt-9.1", "virt-9.1"][stages];
        let board = format!("{board},iommu=smmuv3,memory-backend=ram");
        command.args(["300", "qemu-system-aarch64", "-M", &board, "-m", "512M"]);
        if stages == 2 {
            command.args(["-global", "arm-smmuv3.stage=2"]);
        }
        command.args(["-cpu", "cortex-a57", "-object", &memory, "-qtest", &socket, "-qtest-log", "none"]);
        command.args(["-display", "none", "-nic", "none", "-serial", "none", "-monitor", "none"]);
        command.args(["-icount", "shift=0,sleep=off", "-device", code]);
        command.args(["-device", "loader,addr=0x48000000,cpu-num=0", "-D", &path("trace")]);
        command.args(["-trace", "smmuv3_cmdq_opcode"]);
        for slot in 1..=STREAMS.len() {
            command.args(["-device", &format!("edu,addr={slot},dma_mask=0xffffffffffffffff")]);
        }
        let process = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let link = connect(&directory.join("qtest"));
        let ram = map(&directory.join("ram"));
        let (known, expected) = (RefCell::default(), RefCell::default());
        let qemu =
            Self { process, link: RefCell::new(BufReader::new(link)), directory, ram, known, expected };
        (0..STREAMS.len() as u64).for_each(|device| qemu.enable(device));
        qemu
    }

    /// The RAM.
    pub fn ram(&self) -> &'static [AtomicU64] {
        self.ram
    }

    fn ask(&self, question: &str) -> u64 {
        let mut link = self.link.borrow_mut();
        link.get_mut().write_all(format!("{question}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        link.read_line(&mut answer).unwrap();
        let value = answer.trim().strip_prefix("OK").unwrap_or_else(|| panic!("{question}: {answer}"));
        value.trim().strip_prefix("0x").map_or(0, |hex| u64::from_str_radix(hex, 16).unwrap())
    }

    fn read32(&self, at: u64) -> u32 {
        self.ask(&format!("readl {at:#x}")) as u32
    }

    fn write32(&self, at: u64, value: u32) {
        self.ask(&format!("writel {at:#x} {value:#x}"));
    }

    fn write64(&self, at: u64, value: u64) {
        self.ask(&format!("writeq {at:#x} {value:#x}"));
    }

    /// Assigns a device's BAR and enables decoding and bus mastering.
    fn enable(&self, device: u64) {
        let config = ECAM + ((device + 1) << 15);
        self.write32(config + 0x10, (BARS + (device << 20)) as u32);
        self.write32(config + 0x04, 0b110);
    }

    /// Copies changed registers between the driver's fake registers and the SMMU.
    pub fn exchange(&self, registers: &FakeRegisters) {
        let mut known = self.known.borrow_mut();
        for (at, bytes) in WRITTEN {
            let value = if bytes == 8 { registers.get64(at) } else { registers.get32(at).into() };
            if known.insert(at, value).unwrap_or(0) != value {
                match bytes {
                    8 => self.write64(SMMU + at as u64, value),
                    _ => self.write32(SMMU + at as u64, value as u32),
                }
            }
        }
        for at in READ {
            let value = self.read32(SMMU + at as u64);
            registers.set32(at, value);
            known.insert(at, value.into());
        }
    }

    /// Copies the reset values of all registers to the fake.
    pub fn reset(&self, registers: &FakeRegisters) {
        for at in (0..0x20).step_by(4).chain(READ) {
            registers.set32(at, self.read32(SMMU + at as u64));
        }
        for (at, bytes) in WRITTEN {
            let value = (0..bytes as usize / 4).map(|word| {
                let low = self.read32(SMMU + (at + 4 * word) as u64);
                registers.set32(at + 4 * word, low);
                u64::from(low) << (32 * word)
            });
            let value = value.sum();
            self.known.borrow_mut().insert(at, value);
        }
    }

    /// An access of a device. The outcome must equal the model's.
    pub fn access(&self, stream: StreamId, at: u64, direction: AccessKind) -> TransactionResult {
        const MARK: u64 = 0x7e55_e7a0_7e55_e7a0;
        let expected = self.expected.borrow_mut().pop_front().expect("the model made as many accesses");
        let word = match expected {
            TransactionResult::Translated { to, .. } => Some(&self.ram[((to - RAM) / 8) as usize]),
            _ => None,
        };
        word.into_iter().for_each(|word| word.store(MARK, Relaxed));
        self.transfer(stream, at, direction);
        let written = word.is_some_and(|word| word.load(Relaxed) != MARK);
        let due = direction == AccessKind::Write && word.is_some();
        assert_eq!(written, due, "QEMU and the model ({expected:x?}) at {at:#x} of {stream}, {direction:?}");
        expected
    }

    /// Transfers four bytes between a device's buffer, which is zeroed, and `at`.
    fn transfer(&self, stream: StreamId, at: u64, direction: AccessKind) {
        const BUFFER: u64 = 0x4_0000;
        let device = STREAMS.iter().position(|number| *number == stream.raw()).unwrap() as u64;
        let bar = BARS + (device << 20);
        // Reads store to the start of the buffer, writes load from another part of it.
        let (from, to, command) = match direction {
            AccessKind::Read => (at, BUFFER, 0b01),
            AccessKind::Write => (BUFFER + 64, at, 0b11),
        };
        self.write64(bar + 0x80, from);
        self.write64(bar + 0x88, to);
        self.write64(bar + 0x90, 4);
        self.write64(bar + 0x98, command);
        let start = Instant::now();
        while self.read32(bar + 0x98) & 1 != 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "the device does not finish");
        }
    }

    /// QEMU's names of the commands consumed by the SMMU.
    pub fn commands(&self) -> Vec<String> {
        let trace = std::fs::read_to_string(self.directory.join("trace")).unwrap();
        let names = trace.lines().filter_map(|line| line.split_whitespace().last());
        names.filter(|name| name.starts_with("SMMU_CMD")).map(str::to_string).collect()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // SAFETY: signals the child process, which is not waited for yet; `timeout` forwards the signal.
        unsafe { libc::kill(self.process.id() as i32, libc::SIGTERM) };
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn connect(path: &std::path::Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(link) => return link,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(60), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Maps QEMU's RAM.
fn map(path: &std::path::Path) -> &'static [AtomicU64] {
    let start = Instant::now();
    let file = loop {
        match std::fs::File::options().read(true).write(true).open(path) {
            Ok(file) if file.metadata().unwrap().len() == RAM_BYTES => break file,
            _ => assert!(start.elapsed() < Duration::from_secs(60), "no RAM at {path:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of a whole file, shared with QEMU; it is never unmapped.
    let at = unsafe {
        let null = std::ptr::null_mut();
        libc::mmap(null, RAM_BYTES as usize, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    // SAFETY: page-aligned, of this length, never unmapped (above); atomics may be shared with another
    // process.
    unsafe { std::slice::from_raw_parts(at.cast(), (RAM_BYTES / 8) as usize) }
}
