#!/bin/sh
# The first process on Linux: the mounts and links that Tessera has from the start, then the driver script.
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/shm
for directory in /dev/shm /tmp /run /var; do
    busybox mount -t tmpfs -o mode=755 tmpfs $directory
done
busybox ln -sf /proc/self/fd/0 /dev/stdin
busybox ln -sf /proc/self/fd/1 /dev/stdout
busybox ln -sf /proc/self/fd/2 /dev/stderr
busybox ln -sf /proc/self/fd /dev/fd
echo release $(busybox uname -r)
exec busybox sh /run.sh </dev/null
