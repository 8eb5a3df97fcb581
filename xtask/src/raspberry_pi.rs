//! The boot partition of a Raspberry Pi 3 or 4, as a folder and as a zip archive.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::artifacts::Artifacts;
use crate::error::{Error, Result};

/// The firmware's settings (its documentation calls the file `config.txt`).
const CONFIG: &str = "\
# Read by the firmware of a Raspberry Pi 3 or 4 before it loads the kernel.
arm_64bit=1
kernel=kernel8.img
initramfs initramfs.cpio followkernel
# The console, on GPIO 14 and 15 (pins 8 and 10), 115200 8N1. With the Bluetooth modem off it is
# the PL011; without the overlay it is the mini-UART, which works as well.
enable_uart=1
dtoverlay=disable-bt
# Raspberry Pi 4: interrupts by the GIC.
enable_gic=1
";

const README: &str = "\
Tessera for a Raspberry Pi 3 or 4
=================================

Copy all files of this folder onto the FAT partition that the board boots from, next to the firmware, which
is not included. The firmware files are in the `boot` folder of github.com/raspberrypi/firmware, on every
Raspberry Pi OS card, and in Debian's package raspi-firmware (non-free-firmware; its device trees are in
linux-image-arm64):

  both            overlays/disable-bt.dtbo
  Raspberry Pi 3  bootcode.bin  start.elf   fixup.dat   bcm2710-rpi-3-b.dtb (or -3-b-plus)
  Raspberry Pi 4  start4.elf    fixup4.dat  bcm2711-rpi-4-b.dtb

Boot arguments are the one line of cmdline.txt; `selftest lowmem=256M` instead runs the self-tests.
doc/boards.md has the wiring, the expected console output, and the steps if there is no output.
";

/// The boot arguments of a board with 1 GiB or more.
const COMMAND_LINE: &str = "lowmem=256M -- --size=256M\n";

/// Writes the folder and the archive next to the image, and returns them.
pub fn write(built: &Artifacts, directory: &Path) -> Result<[PathBuf; 2]> {
    let folder = directory.join("rpi");
    fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let read = |path: &Path| fs::read(path).map_err(Error::file("read", path));
    let files = [
        ("kernel8.img", read(&built.image)?),
        ("initramfs.cpio", read(&built.initramfs)?),
        ("config.txt", CONFIG.into()),
        ("cmdline.txt", COMMAND_LINE.into()),
        ("README.txt", README.into()),
    ];
    for (name, content) in &files {
        let path = folder.join(name);
        fs::write(&path, content).map_err(Error::file("write", &path))?;
    }
    let archive = directory.join("rpi.zip");
    let file = File::create(&archive).map_err(Error::file("create", &archive))?;
    zipped(file, &files)
        .map_err(|error| Error::Image { path: archive.clone(), reason: error.to_string() })?;
    Ok([folder, archive])
}

fn zipped(file: impl Write + std::io::Seek, files: &[(&str, Vec<u8>)]) -> zip::result::ZipResult<()> {
    let mut archive = ZipWriter::new(file);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, content) in files {
        archive.start_file(*name, stored)?;
        archive.write_all(content)?;
    }
    archive.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::*;

    #[test]
    fn the_archive_holds_the_files() {
        let mut bytes = Cursor::new(Vec::new());
        zipped(&mut bytes, &[("kernel8.img", b"image".to_vec()), ("config.txt", CONFIG.into())]).unwrap();
        let mut archive = zip::ZipArchive::new(bytes).unwrap();
        let mut text = String::new();
        archive.by_name("config.txt").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), archive.len()), (CONFIG, 2));
    }

    #[test]
    fn the_firmware_configuration_names_existing_files() {
        let has = |line: &str| CONFIG.lines().any(|own| own == line);
        assert!(
            has("kernel=kernel8.img") && has("initramfs initramfs.cpio followkernel") && has("arm_64bit=1")
        );
        assert!(COMMAND_LINE.ends_with('\n') && COMMAND_LINE.lines().count() == 1);
    }
}
