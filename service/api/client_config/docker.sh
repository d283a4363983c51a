
# Adds the settings on standard input to /etc/docker/daemon.json. Keeps what else that file has.
merge_daemon_json() {
    settings=$(cat)
    if ! [ -s /etc/docker/daemon.json ]; then
        printf '%s\n' "$settings" | install -D -m 0644 /dev/stdin /etc/docker/daemon.json
    elif command -v python3 >/dev/null; then
        python3 - "$settings" <<'END_OF_PROGRAM'
import json, os, shutil, sys

path = "/etc/docker/daemon.json"
with open(path) as file:
    merged = json.load(file)
for name, values in json.loads(sys.argv[1]).items():
    merged[name] = values + [value for value in merged.get(name, []) if value not in values]
with open(path + ".new", "w") as file:
    file.write(json.dumps(merged, indent=2) + "\n")
shutil.copymode(path, path + ".new")
os.replace(path + ".new", path)
END_OF_PROGRAM
    else
        printf 'Without python3 this script cannot change /etc/docker/daemon.json. Add to it:\n%s\n' "$settings" >&2
        exit 1
    fi
}

# Makes a running dockerd read daemon.json, and waits until it uses the host that is given.
reload_dockerd() {
    if [ -d /run/systemd/system ]; then
        systemctl try-reload-or-restart docker
    elif [ -s /run/docker.pid ]; then
        kill -HUP "$(cat /run/docker.pid)"
    fi
    [ -e /run/docker.pid ] || return 0
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        if docker info 2>/dev/null | grep -qF "$1"; then return; fi
        sleep 0.5
    done
    echo "dockerd does not use $1 yet. Restart it." >&2
    exit 1
}
