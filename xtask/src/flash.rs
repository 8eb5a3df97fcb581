//! `make image`: the files for a card or disk, by `BOARD=`.

use std::path::Path;

use crate::artifacts;
use crate::error::{Error, Result};
use crate::knobs::Knobs;
use crate::run::DEFAULT_APPEND;
use crate::{disk, raspberry_pi, workspace};

/// Builds and writes the files for the board.
pub fn images(knobs: &Knobs) -> Result<()> {
    let board = knobs.board.as_deref().unwrap_or("generic");
    if !["generic", "rpi"].contains(&board) {
        let requirement = "must be generic (any board with U-Boot) or rpi".into();
        return Err(Error::Knob { name: "BOARD", value: board.into(), requirement });
    }
    let built = artifacts::build()?;
    let directory = workspace::images();
    match board {
        "rpi" => raspberry_pi::write(&built, &directory)?.iter().for_each(|path| announce(path)),
        _ => {
            let path = directory.join("generic.img");
            println!("writing the disk image");
            disk::write(&built, knobs.append.as_deref().unwrap_or(DEFAULT_APPEND), &path)?;
            announce(&path);
        }
    }
    Ok(())
}

fn announce(path: &Path) {
    println!("{}", path.strip_prefix(workspace::root()).unwrap_or(path).display());
}
