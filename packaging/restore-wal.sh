#!/bin/sh
# restore_command = '/usr/share/basin/restore-wal.sh /var/lib/basin/receivewal/main %f %p'
#
# Copies one file of write-ahead log, $2, out of a directory that basin receivewal or
# pg_receivewal has filled, $1, to $3. Of the segment that was never completed it
# takes what there is. Exits with 1 if there is nothing, which ends the recovery; what
# cannot be decompressed ends the server instead, as the log would have a hole.
#
# The size of the cluster's segments is what a segment says; SEGMENT_SIZE is used instead
# if it is set.
set -u
dir=$1 name=$2 to=$3

unpack() {
	case $1 in
	*.gz | *.gz.partial) gzip -dc <"$1" ;;
	*.lz4 | *.lz4.partial) lz4 -dc <"$1" ;;
	*.zst | *.zst.partial) zstd -dcq <"$1" ;;
	*) cat <"$1" ;;
	esac
}

# A file may be replaced by its compressed form meanwhile, so it is looked for twice.
for _ in 1 2; do
	for ending in '' .gz .lz4 .zst; do
		if [ -f "$dir/$name$ending" ]; then
			unpack "$dir/$name$ending" >"$to" && exit 0
			[ -f "$dir/$name$ending" ] && exit 255
		fi
	done
done

# A compressed one may be cut short: what can be had of it counts. A server takes no
# segment that has not its full size, and finds the end of the log in one that has.
for ending in '' .gz .lz4 .zst; do
	if [ -f "$dir/$name$ending.partial" ]; then
		[ ! -s "$dir/$name$ending.partial" ] && exit 1 # nothing was received of it yet
		[ -r "$dir/$name$ending.partial" ] || exit 255
		complaint=$(unpack "$dir/$name$ending.partial" 2>&1 >"$to")
		if [ ! -s "$to" ]; then # not cut short: no program to unpack it, or nothing but damage
			echo "$dir/$name$ending.partial: $complaint" >&2
			exit 255
		fi
		size=${SEGMENT_SIZE:-$(od -An -tu4 -j32 -N4 "$to" | tr -d ' ')} # xlp_seg_size
		[ "${size:-0}" != 0 ] || size=16M                             # no page of it has come
		truncate -s "%$size" "$to" || exit 255
		exit 0
	fi
done
exit 1
