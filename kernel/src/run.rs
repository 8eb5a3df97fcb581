//! What the machine is for, once it is up: the self-tests, or the first program.

use crate::board::{BootArgs, Platform};
use crate::{power, selftest};

/// Does what the boot arguments ask for and switches the machine off.
pub fn main(platform: Platform) -> ! {
    // They were accepted before; only what they refer to has moved.
    let args = BootArgs::parse(&platform.bootargs).unwrap_or_else(|error| power::fail(&error));
    if let Some(chosen) = args.selftest {
        selftest::run(chosen);
    }
    power::off()
}
