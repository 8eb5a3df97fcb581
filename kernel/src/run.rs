//! What the machine is for, once it is up: the self-tests, the benchmarks, random work, or the first program.

use crate::board::{BootArgs, Platform};
use crate::{bench, console, power, selftest, soak, user};
use alloc::vec::Vec;

/// The first program, if the boot arguments name none: the demonstration.
const DEFAULT_INIT: &str = "/bin/mosaic";

/// Does what the boot arguments ask for and switches the machine off.
pub fn main(platform: Platform) -> ! {
    // They were accepted before; only what they refer to has moved.
    let args = BootArgs::parse(&platform.bootargs).unwrap_or_else(|error| power::fail(&error));
    if let Some(chosen) = args.selftest {
        // Without files the tests of programs are skipped; what is wrong with them is a matter for `init=`.
        platform.initrd.map(user::mount);
        selftest::run(chosen);
    } else if let Some(chosen) = args.bench {
        bench::run(chosen, platform.initrd);
    } else if let Some(wish) = args.soak {
        platform.initrd.map(user::mount);
        soak::run(wish);
    } else {
        run_init(&platform, &args);
    }
    console::flush();
    power::off()
}

fn run_init(platform: &Platform, args: &BootArgs<'_>) {
    let arguments: Vec<&str> = args.init_args().collect();
    user::run_init(platform.initrd, args.init.unwrap_or(DEFAULT_INIT), &arguments);
}
