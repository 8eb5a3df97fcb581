//! The boot arguments.
//!
//! | argument | meaning |
//! |---|---|
//! | `selftest[=GLOB]` | run the self-tests with matching names, then power off |
//! | `bench[=GLOB]` | run the benchmarks with matching names, then power off |
//! | `soak=MINUTES[:SEED]` | run the soak test (a random workload) for this time, then power off |
//! | `init=PATH` | the first program; its arguments follow ` -- ` |
//! | `lowmem=SIZE` | amount of memory in the linear map |
//! | `vmalloc=SIZE` | size of the address space for kernel mappings |
//! | `iommu=off` | use physical addresses for DMA |
//! | `iommu.events=N` | limit an IOMMU's event queue to N entries (default: sized for all its devices) |
//! | `edu.mask=BITS` | DMA address width of an `edu` device, if not 28 bits (QEMU's `dma_mask`) |
//! | `vfio-pci.ids=VENDOR:DEVICE,..` | leave these PCI functions to user-space drivers |
//! | `dma.trace` | print a line for each DMA operation |
//! | `loglevel=N` | as in Linux, print messages more urgent than N, from 4 (errors) to 8 (debug); 9: all |
//!
//! Two more are valid in the checking build only:
//!
//! | argument | meaning |
//! |---|---|
//! | `inject[=GLOB]` | repeat each self-test, each time with another event of one matching class failing |
//! | `inject.first=N` | fail all of up to N events, or a sample that includes every call path (default: 64) |
//!
//! A GLOB is one or more comma-separated patterns. If an argument is repeated, the last one counts, as in
//! Linux. White space separates arguments, except between double quotes.
//!
//! Each unknown argument is reported. As in Linux, an unknown `NAME=VALUE` is also put into the environment
//! of the first program, unless the name has a dot: that is an option of a driver. Unlike in Linux, an
//! unknown argument without a value is not an argument of the first program: these follow ` -- `.

mod argument;
mod glob;
mod pci_ids;

pub use argument::BootArgument;
pub use glob::Glob;
pub use pci_ids::PciIds;

use crate::debug;
use addr::{SizeError, parse_size};
use argument::CommandLine;
use core::fmt;
use log::LevelFilter;

/// The value of an argument is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArgumentError {
    /// A value is required.
    Missing,
    /// No value is accepted.
    UnexpectedValue,
    /// The value is not a size.
    Size(SizeError),
    /// The value is not one of these.
    NotOneOf(&'static str),
    /// The value is not an absolute path.
    NotAbsolute,
    /// The value is not a number of minutes with an optional seed.
    NotMinutes,
    /// The value is not a positive number.
    NotPositive,
    /// The value is not a list of PCI ids.
    NotPciIds,
    /// The argument requires the checking build.
    CheckingOnly,
}

/// A known argument with an invalid value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadArgument<'a> {
    pub argument: BootArgument<'a>,
    /// The error in its value.
    pub error: ArgumentError,
}

impl fmt::Display for BadArgument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad boot argument \"{}\": ", self.argument)?;
        match self.error {
            ArgumentError::Missing => write!(f, "a value is required"),
            ArgumentError::UnexpectedValue => write!(f, "no value is accepted"),
            ArgumentError::Size(SizeError::Malformed) => write!(f, "not a size such as 256M"),
            ArgumentError::Size(SizeError::TooLarge) => write!(f, "the size does not fit 64 bits"),
            ArgumentError::NotOneOf(values) => write!(f, "valid values: {values}"),
            ArgumentError::NotMinutes => write!(f, "not MINUTES or MINUTES:SEED"),
            ArgumentError::NotAbsolute => write!(f, "the path must start with /"),
            ArgumentError::NotPositive => write!(f, "not a positive number"),
            ArgumentError::NotPciIds => write!(f, "not a list of VENDOR:DEVICE in hexadecimal"),
            ArgumentError::CheckingOnly => write!(f, "only the checking build supports it"),
        }
    }
}

impl core::error::Error for BadArgument<'_> {}

/// The duration and seed of a soak test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Soak {
    /// Minutes, at least 1.
    pub minutes: u64,
    /// The seed of the random workload.
    pub seed: u64,
}

/// The parsed boot arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BootArgs<'a> {
    /// The self-tests to run.
    pub selftest: Option<Glob<'a>>,
    /// The benchmarks to run.
    pub bench: Option<Glob<'a>>,
    /// The soak test to run.
    pub soak: Option<Soak>,
    /// The first program.
    pub init: Option<&'a str>,
    /// Bytes of memory in the linear map.
    pub lowmem: Option<u64>,
    /// Bytes of address space for kernel mappings.
    pub vmalloc: Option<u64>,
    /// Whether IOMMUs stay unused.
    pub iommu_off: bool,
    /// The maximum number of entries of an IOMMU's event queue.
    pub iommu_events: Option<u64>,
    /// The DMA address width of an `edu` device.
    pub edu_mask: Option<u32>,
    /// The PCI functions of user-space drivers.
    pub vfio_ids: PciIds<'a>,
    /// Whether to trace DMA operations.
    pub dma_trace: bool,
    pub log_level: Option<LevelFilter>,
    /// The classes of events that fail in the self-tests.
    pub inject: Option<Glob<'a>>,
    /// The maximum number of events of a class that are all injected; of more, only a sample.
    pub inject_first: Option<u64>,
    /// The arguments before ` -- `.
    kernel_args: CommandLine<'a>,
    /// The arguments after ` -- `.
    init_args: CommandLine<'a>,
}

impl<'a> BootArgs<'a> {
    /// Parses the boot arguments; fails at the first known one with an invalid value.
    pub fn parse(text: &'a str) -> Result<Self, BadArgument<'a>> {
        let (kernel_args, init_args) = CommandLine::new(text).split_at_dashes();
        let mut args = Self { kernel_args, init_args, ..Self::default() };
        for argument in kernel_args {
            args.parse_one(argument).map_err(|error| BadArgument { argument, error })?;
        }
        Ok(args)
    }

    /// The unknown arguments.
    pub fn unknown(&self) -> impl Iterator<Item = BootArgument<'a>> + use<'a> {
        self.kernel_args.filter(|&argument| Self::default().parse_one(argument) == Ok(false))
    }

    /// The environment of the first program, in addition to the default.
    pub fn environment(&self) -> impl Iterator<Item = BootArgument<'a>> + use<'a> {
        self.unknown().filter(|argument| argument.value.is_some() && !argument.name.contains('.'))
    }

    /// The arguments of the first program.
    pub fn init_args(&self) -> impl Iterator<Item = BootArgument<'a>> + use<'a> {
        self.init_args
    }

    /// Parses one argument; returns whether it is known.
    fn parse_one(&mut self, BootArgument { name, value }: BootArgument<'a>) -> Result<bool, ArgumentError> {
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
            "vfio-pci.ids" => {
                self.vfio_ids = PciIds::parse(required(value)?).ok_or(ArgumentError::NotPciIds)?;
            }
            "dma.trace" => self.dma_trace = flag(value)?,
            "loglevel" => self.log_level = Some(level(value)?),
            "inject" => self.inject = Some(checking_only(glob(value))?),
            "inject.first" => self.inject_first = Some(checking_only(number(value))?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn required(value: Option<&str>) -> Result<&str, ArgumentError> {
    value.filter(|value| !value.is_empty()).ok_or(ArgumentError::Missing)
}

fn glob(value: Option<&str>) -> Result<Glob<'_>, ArgumentError> {
    value.map_or(Ok(Glob::ALL), |value| required(Some(value)).map(Glob::new))
}

fn path(value: Option<&str>) -> Result<&str, ArgumentError> {
    let path = required(value)?;
    if path.starts_with('/') { Ok(path) } else { Err(ArgumentError::NotAbsolute) }
}

fn soak(value: Option<&str>) -> Result<Soak, ArgumentError> {
    let (minutes, seed) = required(value)?.split_once(':').unwrap_or((value.unwrap_or_default(), "1"));
    match (minutes.parse(), seed.parse()) {
        (Ok(minutes @ 1..=100_000), Ok(seed)) => Ok(Soak { minutes, seed }),
        _ => Err(ArgumentError::NotMinutes),
    }
}

fn size(value: Option<&str>) -> Result<u64, ArgumentError> {
    parse_size(required(value)?).map_err(ArgumentError::Size)
}

fn off(value: Option<&str>) -> Result<bool, ArgumentError> {
    if required(value)? == "off" { Ok(true) } else { Err(ArgumentError::NotOneOf("off")) }
}

fn flag(value: Option<&str>) -> Result<bool, ArgumentError> {
    if value.is_none() { Ok(true) } else { Err(ArgumentError::UnexpectedValue) }
}

fn number(value: Option<&str>) -> Result<u64, ArgumentError> {
    required(value)?.parse().ok().filter(|&number| number > 0).ok_or(ArgumentError::NotPositive)
}

fn bits(value: Option<&str>) -> Result<u32, ArgumentError> {
    let bits = required(value)?.parse().ok().filter(|bits| (28..=64).contains(bits));
    bits.ok_or(ArgumentError::NotOneOf("28 to 64"))
}

/// Accepts an argument in the checking build only.
fn checking_only<T>(value: Result<T, ArgumentError>) -> Result<T, ArgumentError> {
    if debug::ENABLED { value } else { Err(ArgumentError::CheckingOnly) }
}

fn level(value: Option<&str>) -> Result<LevelFilter, ArgumentError> {
    match required(value)? {
        "0" | "1" | "2" | "3" => Ok(LevelFilter::Off),
        "4" => Ok(LevelFilter::Error),
        "5" | "6" => Ok(LevelFilter::Warn),
        "7" => Ok(LevelFilter::Info),
        "8" => Ok(LevelFilter::Debug),
        "9" => Ok(LevelFilter::Trace),
        _ => Err(ArgumentError::NotOneOf("0 to 9")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_parsed() {
        let text = "selftest=smmu* bench soak=30:7 init=/bin/x lowmem=256M  vmalloc=0x10k iommu=off \
                    iommu.events=64 edu.mask=64 vfio-pci.ids=8086:10c9 dma.trace loglevel=8";
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
            vfio_ids: PciIds::parse("8086:10c9").unwrap(),
            dma_trace: true,
            log_level: Some(LevelFilter::Debug),
            inject: None,
            inject_first: None,
            kernel_args: CommandLine::new(text),
            init_args: CommandLine::default(),
        };
        assert_eq!(BootArgs::parse(text), Ok(expected));
        assert_eq!(expected.unknown().count(), 0);
        assert_eq!(BootArgs::parse("selftest=a selftest=b").unwrap().selftest, Some(Glob::new("b")));
    }

    fn texts<'a>(arguments: impl Iterator<Item = BootArgument<'a>>) -> Vec<String> {
        arguments.map(|argument| argument.to_string()).collect()
    }

    #[test]
    fn arguments_after_dashes_are_those_of_init() {
        let args = BootArgs::parse("init=/bin/x -- selftest=y  --fast -- z").unwrap();
        assert_eq!((args.selftest, args.init), (None, Some("/bin/x")));
        assert_eq!(texts(args.init_args()), ["selftest=y", "--fast", "--", "z"]);
        assert_eq!(BootArgs::parse("--").unwrap().init_args().count(), 0);
        let args = BootArgs::parse("init=\"/x -- y\" -- -c \"echo  a; echo b\" --text=\"c d\"").unwrap();
        assert_eq!(args.init, Some("/x -- y"));
        assert_eq!(texts(args.init_args()), ["-c", "echo  a; echo b", "--text=c d"]);
    }

    #[test]
    fn unknown_arguments_are_reported() {
        let args = BootArgs::parse("quiet --x selftests root=/dev/vda lowmem=1G init=/x").unwrap();
        assert_eq!(texts(args.unknown()), ["quiet", "--x", "selftests", "root=/dev/vda"]);
        let args = BootArgs::parse("").unwrap();
        assert_eq!((args.unknown().count(), args.init_args().count()), (0, 0));
    }

    #[test]
    fn unknown_values_are_the_environment_of_init() {
        let args =
            BootArgs::parse("A=1 quiet lowmem=1G \"B=2 3\" C=\"4 5\" D= iommu.depth=6 -- E=7").unwrap();
        assert_eq!(texts(args.environment()), ["A=1", "B=2 3", "C=4 5", "D="]);
    }

    #[test]
    fn invalid_value_is_reported_with_its_argument() {
        let cases = [
            ("selftest=", ArgumentError::Missing),
            ("soak=0", ArgumentError::NotMinutes),
            ("soak=5:x", ArgumentError::NotMinutes),
            ("init", ArgumentError::Missing),
            ("init=bin/x", ArgumentError::NotAbsolute),
            ("lowmem=12X", ArgumentError::Size(SizeError::Malformed)),
            ("vmalloc=99999999T", ArgumentError::Size(SizeError::TooLarge)),
            ("vmalloc", ArgumentError::Missing),
            ("iommu=on", ArgumentError::NotOneOf("off")),
            ("edu.mask=65", ArgumentError::NotOneOf("28 to 64")),
            ("iommu.events=0", ArgumentError::NotPositive),
            ("vfio-pci.ids=8086", ArgumentError::NotPciIds),
            ("dma.trace=1", ArgumentError::UnexpectedValue),
            ("loglevel=10", ArgumentError::NotOneOf("0 to 9")),
            if debug::ENABLED {
                ("inject.first=0", ArgumentError::NotPositive)
            } else {
                ("inject=frames", ArgumentError::CheckingOnly)
            },
        ];
        for (argument, error) in cases {
            let text = format!("bench {argument} dma.trace");
            let bad = BootArgs::parse(&text).unwrap_err();
            assert_eq!((bad.argument.to_string().as_str(), bad.error), (argument, error));
        }
        let error = BootArgs::parse("lowmem=lots").unwrap_err();
        assert_eq!(error.to_string(), "bad boot argument \"lowmem=lots\": not a size such as 256M");
    }
}
