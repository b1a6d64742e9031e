# shellcheck shell=bash
# Redis for the demo: the system's, else the distribution's packages unpacked below .venv with the
# libraries that are missing here. Nothing is installed and no service comes up.

redis_path() {
    if [[ -x $opt/redis/bin/redis-server ]]; then
        echo "$opt/redis/bin/redis-server"
    elif type -P redis-cli >/dev/null; then
        type -P redis-server || true
    fi
}

make_redis() {
    local new=$opt/redis.new work=$scratch/redis tree=$scratch/redis/tree deb
    [[ -z $(redis_path) ]] || return 0
    rm -rf "$new"
    mkdir -p "$work/cache/archives/partial" "$new/lib"
    download_redis "$work" || { apt_update && download_redis "$work"; }
    for deb in "$work"/cache/archives/*.deb; do
        dpkg -x "$deb" "$tree"
    done
    place "$tree/usr/bin/redis-server" "$new"
    place "$tree/usr/bin/redis-cli" "$new"
    find "$tree/usr/lib" -name '*.so*' -exec cp -Pt "$new/lib" {} +
    (cd "$work/cache/archives" && ls -- *.deb) >"$new/packages"
    mv "$new" "$opt/redis"
}

# Just what the system lacks, by apt's own reckoning; apt cannot install with such a dpkg.
download_redis() {
    apt-get --quiet --yes --no-install-recommends --download-only \
        -o Dir::Cache="$1/cache" -o Dir::Bin::dpkg=/bin/false -o APT::Sandbox::User=root \
        install redis-server redis-tools
}
