#!/bin/sh
# Runs a command as the pods do: as user 10001 without capabilities, on a file system where nothing can be written but
# the folders of WRITABLE. READABLE: what it needs of this machine (interpreter, packages, program), wherever that lies.
# To be started as root, in a mount namespace of its own:
#   READABLE="DIR ..." WRITABLE="DIR ..." unshare --mount --propagation private sh read_only_root.sh COMMAND ...
set -eu
empty() { mount -t tmpfs -o mode=755 tmpfs "$1"; }

empty /mnt
for folder in $READABLE; do
    mkdir -p "/mnt$folder"
    mount --bind "$folder" "/mnt$folder"
done
empty /root # which only root may enter
for folder in $WRITABLE; do
    if [ ! -d "$folder" ]; then # made on this machine it would stay there
        empty "$(dirname "$folder")"
        mkdir "$folder"
    fi
    empty "$folder"
    chown 10001 "$folder"
done
for folder in $READABLE; do # again, where they lay below what is empty now
    mkdir -p "$folder"
    mount --bind "/mnt$folder" "$folder"
done
awk '{print $5}' /proc/self/mountinfo | while read -r point; do
    case " $WRITABLE " in *" $point "*) continue ;; esac
    mount -o remount,bind,ro "$point" 2>/dev/null || true # /proc and /dev have mounts that refuse
done
exec setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
