# shellcheck shell=bash
# Programs of unpacked packages, made to find their libraries beside them: DT_RPATH in the program
# itself, which also serves what its libraries load and, unlike LD_LIBRARY_PATH, no program it starts.

# place PROGRAM PREFIX: copy it to PREFIX/bin, to look for libraries in PREFIX/lib first.
place() {
    local name=${1##*/}
    install -D -m 755 "$1" "$2/bin/$name"
    patchelf --force-rpath --set-rpath "\$ORIGIN/../lib" "$2/bin/$name"
}

# own_libc PROGRAM TREE FINAL: give a placed program the loader and all libraries of TREE, and of TREE
# alone; FINAL is the prefix where it will lie.
own_libc() {
    local program=$1 tree=$2 final=$3 lib loader
    lib=${program%/bin/*}/lib
    loader=$(basename "$(patchelf --print-interpreter "$program")")
    mkdir -p "$lib"
    libraries "$program" "$tree" "$loader" | xargs -d '\n' cp -Lt "$lib"
    patchelf --set-interpreter "$final/lib/$loader" "$program"
}

# The library files that a program loads with the loader of TREE, that loader included.
libraries() {
    local program=$1 tree=$2 loader dir
    loader=$(find "$tree/usr/lib" -name "$3" -type f -print -quit)
    dir=${loader%/*}
    echo "$loader"
    "$loader" --inhibit-cache --library-path "$dir" --list "$program" |
        sed -n "s|.* => \($dir/.*\) (0x.*|\1|p; /not found/{p;q1}"
}
