//! Conversion of a container of a pod's spec to a program to start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use net::namespace::Namespaces;
use net::namespace::file_tree::{FileTree, MountSource, TreeMount};
use net::process::{Launch, Program, User};

use super::environment::{Environment, OWN_PROGRAMS, expand};
use super::sandbox::name_files;

/// Limit of open files of a container, as container runtimes set it.
const OPEN_FILES: u64 = 1 << 20;
/// Prefix of built-in images; the rest of the name is a subcommand of this program.
const OWN_IMAGES: &str = "isthmus/";

/// Why a container cannot start yet: `reason` and `message` of its `waiting` state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WaitingReason {
    pub reason: &'static str,
    pub message: String,
}

const CONFIG: &str = "CreateContainerConfigError";

impl WaitingReason {
    pub(super) fn config(message: impl Into<String>) -> Self {
        Self { reason: CONFIG, message: message.into() }
    }

    /// Reports whether the container waits for its configuration.
    pub(super) fn is_config(&self) -> bool {
        self.reason == CONFIG
    }
}

/// What the pod provides for its containers.
pub(super) struct ContainerSources<'a> {
    pub pod: &'a Pod,
    /// Directory of the pod.
    pub directory: &'a Path,
    /// Directories of the volumes on the host, by name.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// Path of this program, which every container can run.
    pub executable: &'a Path,
}

/// Returns the subcommand of a built-in image.
pub(super) fn own_image(image: &str) -> Option<&str> {
    let rest = image.rsplit_once('@').map_or(image, |(name, _)| name).strip_prefix(OWN_IMAGES)?;
    Some(rest.split_once(':').map_or(rest, |(name, _)| name))
}

/// Returns the last part of an image's name, without tag and digest.
fn base_name(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map_or(last, |(name, _)| name)
}

/// Returns the program of a container, ready to start in its pod.
pub(super) fn plan(
    provision: &ContainerSources<'_>,
    container: &Container,
    environment: Environment,
) -> Result<Launch, WaitingReason> {
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, &environment)).collect()
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let image = container.image.as_deref().unwrap_or_default();
    let (program, arguments) = match (command.split_first(), own_image(image)) {
        (Some((program, rest)), _) => (Program::Named(program.clone()), [rest.to_vec(), args].concat()),
        (None, Some(subcommand)) => (Program::Own, [vec![subcommand.to_owned()], args].concat()),
        // The image's entry point is not known. Options are those of the program that the image is named after, such as
        // `alpine/socat`; other arguments are a command of this machine.
        (None, None) if args.first().is_some_and(|first| first.starts_with('-')) => {
            (Program::Named(base_name(image).to_owned()), args)
        }
        (None, None) if !args.is_empty() => (Program::Named(args[0].clone()), args[1..].to_vec()),
        (None, None) => {
            return Err(WaitingReason {
                reason: "ErrImageNeverPull",
                message: format!(
                    "Container image {image:?} is not built in, and a lab runs programs of this machine instead of images: \
                     give the container a \"command\" or \"args\" of this machine"
                ),
            });
        }
    };
    let mut launch = Launch::new(program);
    launch.arguments = arguments;
    launch.file_tree = Some(file_tree(provision, container, &environment)?);
    launch.environment = environment;
    launch.directory = container.working_dir.as_ref().map(PathBuf::from);
    launch.join = Namespaces { mount: false, ..Namespaces::ALL };
    launch.make = Namespaces { mount: true, ..Namespaces::default() };
    launch.user = user(provision.pod, container);
    launch.open_files = Some(OPEN_FILES);
    Ok(launch)
}

/// Returns the user of a container. A user namespace has a single user, so another user is ignored there.
fn user(pod: &Pod, container: &Container) -> Option<User> {
    let own = container.security_context.as_ref();
    let shared = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let uid = own.and_then(|own| own.run_as_user).or_else(|| shared.and_then(|shared| shared.run_as_user))?;
    let gid = own.and_then(|own| own.run_as_group).or_else(|| shared.and_then(|shared| shared.run_as_group));
    let uid = u32::try_from(uid).ok()?;
    if !net::namespace::maps_user(uid) {
        return None;
    }
    let groups = shared.and_then(|shared| shared.supplemental_groups.as_ref()).into_iter().flatten();
    let groups = groups.filter_map(|id| u32::try_from(*id).ok());
    let volumes_group = shared.and_then(|shared| shared.fs_group).and_then(|group| u32::try_from(group).ok());
    Some(User {
        uid,
        gid: gid.and_then(|gid| u32::try_from(gid).ok()).unwrap_or(0),
        groups: groups.chain(volumes_group).collect(),
        capabilities: own
            .and_then(|own| own.capabilities.as_ref())
            .and_then(|capabilities| capabilities.add.clone())
            .unwrap_or_default(),
    })
}

fn file_tree(
    provision: &ContainerSources<'_>,
    container: &Container,
    environment: &Environment,
) -> Result<FileTree, WaitingReason> {
    let mut mounts: Vec<TreeMount> = name_files(provision.directory)
        .into_iter()
        .map(|(target, source)| TreeMount {
            target: target.into(),
            source: MountSource::Host(source),
            read_only: false,
        })
        .collect();
    // The program's file may have been replaced since the lab started. It still runs, but can no longer be mounted.
    if provision.executable.exists() {
        mounts.push(TreeMount {
            target: Path::new(OWN_PROGRAMS).join("isthmus"),
            source: MountSource::Host(provision.executable.to_owned()),
            read_only: true,
        });
    }
    for mount in container.volume_mounts.iter().flatten() {
        let source = provision
            .volumes
            .get(&mount.name)
            .ok_or_else(|| WaitingReason::config(format!("volumeMount {:?} names no volume of the pod", mount.name)))?;
        let source = match sub_path(mount, environment)? {
            Some(inside) => inside_of(source, &inside)?,
            None => source.clone(),
        };
        mounts.retain(|other| other.target != Path::new(&mount.mount_path));
        mounts.push(TreeMount {
            target: PathBuf::from(&mount.mount_path),
            source: MountSource::Host(source),
            read_only: mount.read_only == Some(true),
        });
    }
    Ok(FileTree { mounts })
}

fn sub_path(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, WaitingReason> {
    let plain = mount.sub_path.clone().filter(|path| !path.is_empty());
    let path = match &mount.sub_path_expr {
        Some(expression) if !expression.is_empty() => Some(expand(expression, environment)),
        _ => plain,
    };
    match path {
        Some(path) if Path::new(&path).is_absolute() || path.split('/').any(|part| part == "..") => {
            Err(WaitingReason::config(format!("subPath {path:?} leaves its volume")))
        }
        path => Ok(path),
    }
}

/// Returns a path inside of a volume, with links resolved. The directory is created if it is missing.
fn inside_of(volume: &Path, inside: &str) -> Result<PathBuf, WaitingReason> {
    let path = volume.join(inside);
    if !path.exists() {
        std::fs::create_dir_all(&path)
            .map_err(|error| WaitingReason::config(format!("cannot create subPath {inside:?}: {error}")))?;
    }
    let real = path.canonicalize().map_err(|error| WaitingReason::config(format!("subPath {inside:?}: {error}")))?;
    if real.starts_with(volume) {
        Ok(real)
    } else {
        Err(WaitingReason::config(format!("subPath {inside:?} leaves its volume")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn planned(container: serde_json::Value) -> Result<Launch, WaitingReason> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        let volumes = BTreeMap::from([("data".to_owned(), PathBuf::from("/volumes/data"))]);
        let provision = ContainerSources {
            pod: &pod,
            directory: Path::new("/pod"),
            volumes: &volumes,
            executable: Path::new("/x"),
        };
        plan(&provision, &container, vec![("N".into(), "7".into())])
    }

    #[test]
    fn programs_are_chosen_by_image_or_command() {
        let own = planned(json!({"name": "c", "image": "isthmus/sidecar:v1", "args": ["init", "$(N)"]})).unwrap();
        assert_eq!((own.program, own.arguments), (Program::Own, vec!["sidecar".into(), "init".into(), "7".into()]));
        let other =
            planned(json!({"name": "c", "image": "isthmus/testapp", "command": ["sleep"], "args": ["$(N)"]})).unwrap();
        assert_eq!((other.program, other.arguments), (Program::Named("sleep".into()), vec!["7".into()]));
        let alone = planned(json!({"name": "c", "image": "busybox", "args": ["/bin/sh", "-ec", "echo $(N)"]})).unwrap();
        assert_eq!(alone.program, Program::Named("/bin/sh".into()));
        assert_eq!(alone.arguments, ["-ec", "echo 7"]);
        for image in ["alpine/socat", "registry.example:5000/alpine/socat:1.8@sha256:aa", "socat"] {
            let options = planned(json!({"name": "c", "image": image, "args": ["-v", "TCP-LISTEN:42"]})).unwrap();
            assert_eq!(options.program, Program::Named("socat".into()), "{image}");
            assert_eq!(options.arguments, ["-v", "TCP-LISTEN:42"]);
        }
        let unknown = planned(json!({"name": "c", "image": "nginx"})).unwrap_err();
        assert_eq!(unknown.reason, "ErrImageNeverPull");
        assert!(unknown.message.contains("\"nginx\"") && unknown.message.contains("\"command\""));
    }

    #[test]
    fn invalid_mounts_are_refused() {
        let mount =
            |mount: serde_json::Value| planned(json!({"name": "c", "command": ["true"], "volumeMounts": [mount]}));
        let good =
            mount(json!({"name": "data", "mountPath": "/etc/hosts", "readOnly": true})).unwrap().file_tree.unwrap();
        let hosts: Vec<_> = good.mounts.iter().filter(|mount| mount.target == Path::new("/etc/hosts")).collect();
        assert!(hosts.len() == 1 && hosts[0].read_only);
        assert!(mount(json!({"name": "no", "mountPath": "/x"})).unwrap_err().message.contains("\"no\""));
        let escape = mount(json!({"name": "data", "mountPath": "/x", "subPath": "a/../../b"})).unwrap_err();
        assert_eq!(escape.message, "subPath \"a/../../b\" leaves its volume");
    }
}
