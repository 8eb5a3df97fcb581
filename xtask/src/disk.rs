//! A disk image for boards whose boot loader is U-Boot with distro boot: a GPT, one FAT partition, and in it
//! the image, the initramfs and `extlinux/extlinux.conf`, which names them. The boot loader provides the
//! device tree.

use std::io::{Cursor, Read, Write};
use std::ops::Range;
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};

use crate::artifacts::Artifacts;
use crate::error::{Error, Result};

const BLOCK: u64 = 512;
const PARTITION_AT: u64 = 1 << 20;
/// FAT32 needs at least 33 MiB of clusters.
const PARTITION: u64 = 64 << 20;
/// Space for the second copy of the partition table.
const DISK: u64 = PARTITION_AT + PARTITION + (1 << 20);
/// "Legacy BIOS bootable" (UEFI, 5.3.3): distro boot looks in this partition first.
const BOOTABLE: u64 = 1 << 2;
const IMAGE: &str = "kernel8.img";
const INITRAMFS: &str = "initramfs.cpio";
const MENU: &str = "extlinux/extlinux.conf";

type Volume<'disk> = FileSystem<Cursor<&'disk mut [u8]>>;

/// The menu of distro boot. `append` is the kernel's command line.
fn menu(append: &str) -> String {
    format!(
        "# The menu of U-Boot's distro boot. Boot arguments are on the last line.\n\
         timeout 10\n\
         default tessera\n\
         label tessera\n\
         \x20   kernel /{IMAGE}\n\
         \x20   initrd /{INITRAMFS}\n\
         \x20   append {append}\n"
    )
}

/// Writes the disk image.
pub fn write(built: &Artifacts, append: &str, disk: &Path) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).map_err(Error::file("read", path));
    let files = [
        (IMAGE, read(&built.image)?),
        (INITRAMFS, read(&built.initramfs)?),
        (MENU, menu(append).into_bytes()),
    ];
    let bytes = image(&files).map_err(|reason| Error::Image { path: disk.to_owned(), reason })?;
    std::fs::write(disk, bytes).map_err(Error::file("write", disk))
}

/// The kernel's image in a disk image.
pub fn kernel_of(disk: &Path) -> Result<Vec<u8>> {
    let mut bytes = std::fs::read(disk).map_err(Error::file("read", disk))?;
    file(&mut bytes, IMAGE).map_err(|reason| Error::Image { path: disk.to_owned(), reason })
}

fn message(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn image(files: &[(&str, Vec<u8>)]) -> std::result::Result<Vec<u8>, String> {
    let (mut disk, partition) = partitioned()?;
    let volume = &mut disk[partition];
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).volume_label(*b"TESSERA    ");
    fatfs::format_volume(Cursor::new(&mut *volume), options).map_err(message)?;
    let volume = FileSystem::new(Cursor::new(volume), FsOptions::new()).map_err(message)?;
    for (path, content) in files {
        add(&volume, path, content).map_err(message)?;
    }
    volume.unmount().map_err(message)?;
    Ok(disk)
}

fn add(volume: &Volume<'_>, path: &str, content: &[u8]) -> std::io::Result<()> {
    let root = volume.root_dir();
    if let Some((directory, _)) = path.rsplit_once('/') {
        root.create_dir(directory)?;
    }
    let mut file = root.create_file(path)?;
    file.truncate()?;
    file.write_all(content)
}

/// An empty disk with a partition table, and the range of its only partition.
fn partitioned() -> std::result::Result<(Vec<u8>, Range<usize>), String> {
    let mut bytes = Cursor::new(vec![0; DISK as usize]);
    let blocks = u32::try_from(DISK / BLOCK - 1).map_err(message)?;
    ProtectiveMBR::with_lb_size(blocks).overwrite_lba0(&mut bytes).map_err(message)?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(bytes, None).map_err(message)?;
    let align = Some(PARTITION_AT / BLOCK);
    let number =
        table.add_partition("boot", PARTITION, partition_types::BASIC, BOOTABLE, align).map_err(message)?;
    let partition = table.partitions().get(&number).ok_or("the partition is not in the table")?;
    let start = partition.bytes_start(LogicalBlockSize::Lb512).map_err(message)? as usize;
    let len = partition.bytes_len(LogicalBlockSize::Lb512).map_err(message)? as usize;
    let bytes = table.write().map_err(message)?;
    Ok((bytes.into_inner(), start..start + len))
}

/// A file's content, found as by a boot loader: through the partition table and the file system.
fn file(disk: &mut [u8], path: &str) -> std::result::Result<Vec<u8>, String> {
    let table =
        GptConfig::new().writable(false).open_from_device(Cursor::new(&mut *disk)).map_err(message)?;
    let partition = table.partitions().values().next().ok_or("no partition")?;
    let start = partition.bytes_start(LogicalBlockSize::Lb512).map_err(message)? as usize;
    let len = partition.bytes_len(LogicalBlockSize::Lb512).map_err(message)? as usize;
    drop(table);
    let volume = Cursor::new(&mut disk[start..start + len]);
    let volume = FileSystem::new(volume, FsOptions::new()).map_err(message)?;
    let mut content = Vec::new();
    let root = volume.root_dir();
    root.open_file(path).and_then(|mut file| file.read_to_end(&mut content)).map_err(message)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_read_back() {
        let content: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let mut disk = image(&[("kernel8.img", content.clone()), (MENU, b"menu".to_vec())]).unwrap();
        assert_eq!(file(&mut disk, "kernel8.img").unwrap(), content);
        assert_eq!(file(&mut disk, MENU).unwrap(), b"menu");
        assert!(file(&mut disk, "initramfs.cpio").is_err());
        assert_eq!((&disk[510..512], &disk[512..520]), (&[0x55, 0xaa][..], &b"EFI PART"[..]));
    }

    #[test]
    fn the_menu_names_the_files() {
        let menu = menu("lowmem=256M");
        for line in ["kernel /kernel8.img", "initrd /initramfs.cpio", "append lowmem=256M"] {
            assert!(menu.lines().any(|own| own.trim() == line), "{line}");
        }
    }
}
