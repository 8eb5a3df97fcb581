//! The boot arguments.
//!
//! | argument | meaning |
//! |---|---|
//! | `selftest[=GLOB]` | run the self-tests whose names match, then power off |
//! | `bench[=GLOB]` | run the benchmarks whose names match, then power off |
//! | `soak=MINUTES[:SEED]` | work at random for so long, then power off |
//! | `init=PATH` | the first program; what follows ` -- ` are its arguments |
//! | `lowmem=SIZE` | memory to keep in the linear map |
//! | `vmalloc=SIZE` | address space for kernel mappings |
//! | `iommu=off` | give devices physical addresses |
//! | `iommu.events=N` | room for at most N events in an IOMMU's queue (default: what its devices may leave at once) |
//! | `edu.mask=BITS` | bits of address that an `edu` device puts on the bus, if not 28 (QEMU's `dma_mask`) |
//! | `dma.trace` | a line for each DMA event |
//! | `loglevel=N` | Linux's numbers: print what is more urgent than N, 4 for errors to 8 for debugging (9: everything) |
//!
//! And two more in the checking build, which any other refuses:
//!
//! | argument | meaning |
//! |---|---|
//! | `inject[=GLOB]` | run each self-test again and again, every time with another event of one class failing: the classes whose names match |
//! | `inject.first=N` | let every event fail where there are no more than N; else the first few, some behind them, and one on each way (default: 64) |
//!
//! A GLOB can be several with commas between them. Of an argument given twice, the last counts, as in Linux.

use super::Glob;
use addr::{SizeError, parse_size};
use core::fmt;
use log::LevelFilter;

/// What is wrong with a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// There is none, and the argument needs one.
    Missing,
    /// There is one, and the argument takes none.
    Unwanted,
    /// It is no size.
    Size(SizeError),
    /// It is something else than these.
    NotOneOf(&'static str),
    /// It is no absolute path.
    NotAbsolute,
    /// It is no number of minutes, or no seed behind it.
    NotMinutes,
    /// It is no number from 1 on.
    NotANumber,
    /// This is a product, which takes no such argument.
    NotThisBuild,
}

/// A known argument with a bad value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadArgument<'a> {
    /// The argument, as given.
    pub argument: &'a str,
    /// What is wrong with it.
    pub why: Why,
}

impl fmt::Display for BadArgument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad boot argument \"{}\": ", self.argument)?;
        match self.why {
            Why::Missing => write!(f, "a value is required"),
            Why::Unwanted => write!(f, "no value is accepted"),
            Why::Size(SizeError::Malformed) => write!(f, "not a size such as 256M"),
            Why::Size(SizeError::TooLarge) => write!(f, "the size does not fit 64 bits"),
            Why::NotOneOf(values) => write!(f, "valid values: {values}"),
            Why::NotMinutes => write!(f, "not MINUTES or MINUTES:SEED"),
            Why::NotAbsolute => write!(f, "the path must start with /"),
            Why::NotANumber => write!(f, "not a positive number"),
            Why::NotThisBuild => write!(f, "only the checking build supports it"),
        }
    }
}

impl core::error::Error for BadArgument<'_> {}

/// How long to work at random, and from which seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Soak {
    /// Minutes, at least 1.
    pub minutes: u64,
    /// What the threads' choices come from.
    pub seed: u64,
}

/// The boot arguments, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BootArgs<'a> {
    /// Which self-tests to run.
    pub selftest: Option<Glob<'a>>,
    /// Which benchmarks to run.
    pub bench: Option<Glob<'a>>,
    /// To work at random.
    pub soak: Option<Soak>,
    /// The first program.
    pub init: Option<&'a str>,
    /// Bytes to keep in the linear map.
    pub lowmem: Option<u64>,
    /// Bytes of address space for kernel mappings.
    pub vmalloc: Option<u64>,
    /// Whether to leave IOMMUs alone.
    pub iommu_off: bool,
    /// The most events in an IOMMU's queue.
    pub iommu_events: Option<u64>,
    /// Bits of address of an `edu` device.
    pub edu_mask: Option<u32>,
    /// Whether to print DMA events.
    pub dma_trace: bool,
    /// What to print.
    pub log_level: Option<LevelFilter>,
    /// Which classes of events are to fail in the self-tests.
    pub inject: Option<Glob<'a>>,
    /// How many events of a class fail one after the other.
    pub inject_first: Option<u64>,
    /// The text before and behind ` -- `.
    own: &'a str,
    init_args: &'a str,
}

impl<'a> BootArgs<'a> {
    /// Reads the boot arguments; fails at the first known one with a bad value.
    pub fn parse(text: &'a str) -> Result<Self, BadArgument<'a>> {
        let (own, init_args) = split_at_dashes(text);
        let mut args = Self { own, init_args, ..Self::default() };
        for argument in own.split_whitespace() {
            args.take(argument).map_err(|why| BadArgument { argument, why })?;
        }
        Ok(args)
    }

    /// The arguments that nobody knows, each worth a warning.
    pub fn unknown(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.own.split_whitespace().filter(|argument| Self::default().take(argument) == Ok(false))
    }

    /// The first program's own arguments.
    pub fn init_args(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.init_args.split_whitespace()
    }

    /// Takes one argument; whether it is known.
    fn take(&mut self, argument: &'a str) -> Result<bool, Why> {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument, None),
        };
        match name {
            "selftest" => self.selftest = Some(glob(value)?),
            "bench" => self.bench = Some(glob(value)?),
            "soak" => self.soak = Some(soak(value)?),
            "init" => self.init = Some(path(value)?),
            "lowmem" => self.lowmem = Some(size(value)?),
            "vmalloc" => self.vmalloc = Some(size(value)?),
            "iommu" => self.iommu_off = off(value)?,
            "iommu.events" => self.iommu_events = Some(number(value)?),
            "edu.mask" => self.edu_mask = Some(bits(value)?),
            "dma.trace" => self.dma_trace = flag(value)?,
            "loglevel" => self.log_level = Some(level(value)?),
            "inject" => self.inject = Some(checking(glob(value))?),
            "inject.first" => self.inject_first = Some(checking(number(value))?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The text before the first `--` that stands alone, and behind it.
fn split_at_dashes(text: &str) -> (&str, &str) {
    let start = text.as_ptr() as usize;
    match text.split_whitespace().find(|&word| word == "--") {
        Some(dashes) => {
            let at = dashes.as_ptr() as usize - start;
            (&text[..at], &text[at + dashes.len()..])
        }
        None => (text, ""),
    }
}

fn filled(value: Option<&str>) -> Result<&str, Why> {
    value.filter(|value| !value.is_empty()).ok_or(Why::Missing)
}

fn glob(value: Option<&str>) -> Result<Glob<'_>, Why> {
    value.map_or(Ok(Glob::ALL), |value| filled(Some(value)).map(Glob::new))
}

fn path(value: Option<&str>) -> Result<&str, Why> {
    let path = filled(value)?;
    if path.starts_with('/') { Ok(path) } else { Err(Why::NotAbsolute) }
}

fn soak(value: Option<&str>) -> Result<Soak, Why> {
    let (minutes, seed) = filled(value)?.split_once(':').unwrap_or((value.unwrap_or_default(), "1"));
    match (minutes.parse(), seed.parse()) {
        (Ok(minutes @ 1..=100_000), Ok(seed)) => Ok(Soak { minutes, seed }),
        _ => Err(Why::NotMinutes),
    }
}

fn size(value: Option<&str>) -> Result<u64, Why> {
    parse_size(filled(value)?).map_err(Why::Size)
}

fn off(value: Option<&str>) -> Result<bool, Why> {
    if filled(value)? == "off" { Ok(true) } else { Err(Why::NotOneOf("off")) }
}

fn flag(value: Option<&str>) -> Result<bool, Why> {
    if value.is_none() { Ok(true) } else { Err(Why::Unwanted) }
}

fn number(value: Option<&str>) -> Result<u64, Why> {
    filled(value)?.parse().ok().filter(|&number| number > 0).ok_or(Why::NotANumber)
}

fn bits(value: Option<&str>) -> Result<u32, Why> {
    let bits = filled(value)?.parse().ok().filter(|bits| (28..=64).contains(bits));
    bits.ok_or(Why::NotOneOf("28 to 64"))
}

/// What only the checking build takes.
fn checking<T>(value: Result<T, Why>) -> Result<T, Why> {
    if cfg!(feature = "checking") { value } else { Err(Why::NotThisBuild) }
}

fn level(value: Option<&str>) -> Result<LevelFilter, Why> {
    match filled(value)? {
        "0" | "1" | "2" | "3" => Ok(LevelFilter::Off),
        "4" => Ok(LevelFilter::Error),
        "5" | "6" => Ok(LevelFilter::Warn),
        "7" => Ok(LevelFilter::Info),
        "8" => Ok(LevelFilter::Debug),
        "9" => Ok(LevelFilter::Trace),
        _ => Err(Why::NotOneOf("0 to 9")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_understood() {
        let text = "selftest=smmu* bench soak=30:7 init=/bin/x lowmem=256M  vmalloc=0x10k iommu=off iommu.events=64 edu.mask=64 \
                    dma.trace loglevel=8";
        let expected = BootArgs {
            selftest: Some(Glob::new("smmu*")),
            bench: Some(Glob::ALL),
            soak: Some(Soak { minutes: 30, seed: 7 }),
            init: Some("/bin/x"),
            lowmem: Some(256 << 20),
            vmalloc: Some(16 << 10),
            iommu_off: true,
            iommu_events: Some(64),
            edu_mask: Some(64),
            dma_trace: true,
            log_level: Some(LevelFilter::Debug),
            inject: None,
            inject_first: None,
            own: text,
            init_args: "",
        };
        assert_eq!(BootArgs::parse(text), Ok(expected));
        assert_eq!(expected.unknown().count(), 0);
        assert_eq!(BootArgs::parse("selftest=a selftest=b").unwrap().selftest, Some(Glob::new("b")));
    }

    #[test]
    fn what_follows_the_dashes_belongs_to_init() {
        let args = BootArgs::parse("init=/bin/x -- selftest=y  --fast -- z").unwrap();
        assert_eq!((args.selftest, args.init), (None, Some("/bin/x")));
        assert_eq!(args.init_args().collect::<Vec<_>>(), ["selftest=y", "--fast", "--", "z"]);
        assert_eq!(BootArgs::parse("--").unwrap().init_args().count(), 0);
    }

    #[test]
    fn unknown_arguments_are_listed() {
        let args = BootArgs::parse("quiet --x selftests root=/dev/vda lowmem=1G init=/x").unwrap();
        assert_eq!(args.unknown().collect::<Vec<_>>(), ["quiet", "--x", "selftests", "root=/dev/vda"]);
        assert_eq!(BootArgs::parse(""), Ok(BootArgs::default()));
    }

    #[test]
    fn a_bad_value_is_named() {
        let cases = [
            ("selftest=", Why::Missing),
            ("soak=0", Why::NotMinutes),
            ("soak=5:x", Why::NotMinutes),
            ("init", Why::Missing),
            ("init=bin/x", Why::NotAbsolute),
            ("lowmem=12X", Why::Size(SizeError::Malformed)),
            ("vmalloc=99999999T", Why::Size(SizeError::TooLarge)),
            ("vmalloc", Why::Missing),
            ("iommu=on", Why::NotOneOf("off")),
            ("edu.mask=65", Why::NotOneOf("28 to 64")),
            ("iommu.events=0", Why::NotANumber),
            ("dma.trace=1", Why::Unwanted),
            ("loglevel=10", Why::NotOneOf("0 to 9")),
            #[cfg(not(feature = "checking"))]
            ("inject=frames", Why::NotThisBuild),
            #[cfg(not(feature = "checking"))]
            ("inject.first=9", Why::NotThisBuild),
            #[cfg(feature = "checking")]
            ("inject.first=0", Why::NotANumber),
        ];
        for (argument, why) in cases {
            let text = format!("bench {argument} dma.trace");
            assert_eq!(BootArgs::parse(&text), Err(BadArgument { argument, why }));
        }
        let error = BootArgs::parse("lowmem=lots").unwrap_err();
        assert_eq!(error.to_string(), "bad boot argument \"lowmem=lots\": not a size such as 256M");
    }
}
