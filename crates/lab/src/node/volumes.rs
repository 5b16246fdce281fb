//! A pod's volumes: directories on the host, kept up to date.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};
use tokio::time::Instant;

use super::cluster::{DataKind, PodRef, TokenParameters};
use super::fields::{DownwardAddresses, field, resource, service_account};
use super::host::Host;

mod payload;

use payload::{File, Payload};

/// Default lifetime of a projected token, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// Fraction of a token's lifetime after which it is replaced, as a kubelet does.
const TOKEN_SHARE: f64 = 0.8;
const FILE_MODE: u32 = 0o644;

/// The volumes of one pod.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// Directories of the volumes, by name.
    pub directories: BTreeMap<String, PathBuf>,
    tokens: BTreeMap<(String, usize), ProjectedToken>,
}

#[derive(Debug)]
struct ProjectedToken {
    text: String,
    refresh_at: Instant,
}

/// The sources of a pod's volumes.
#[derive(Clone, Copy)]
pub(super) struct VolumeContext<'a> {
    pub host: &'a Host,
    pub pod: &'a Pod,
    pub addresses: DownwardAddresses<'a>,
    /// Directory of the pod.
    pub directory: &'a Path,
}

impl Volumes {
    /// Creates or updates every volume. Returns when a token must be renewed.
    ///
    /// An error is the message of the `FailedMount` event; existing content stays.
    pub(super) async fn prepare(&mut self, origin: VolumeContext<'_>) -> Result<Option<Instant>, String> {
        let volumes = origin.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes {
            let prepared = self.prepare_one(origin, volume).await;
            let directory =
                prepared.map_err(|error| format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name))?;
            self.directories.insert(volume.name.clone(), directory);
        }
        Ok(self.tokens.values().map(|token| token.refresh_at).min())
    }

    async fn prepare_one(&mut self, origin: VolumeContext<'_>, volume: &Volume) -> Result<PathBuf, String> {
        if let Some(wanted) = &volume.host_path {
            return host_path(&wanted.path, wanted.type_.as_deref().unwrap_or_default());
        }
        let directory = origin.directory.join("volumes").join(&volume.name);
        make_directory(&directory)?;
        if volume.empty_dir.is_some() {
            return Ok(directory);
        }
        let payload = self.payload(origin, volume).await?;
        payload.write(&directory).map_err(|error| format!("cannot write {}: {error}", directory.display()))?;
        Ok(directory)
    }

    async fn payload(&mut self, origin: VolumeContext<'_>, volume: &Volume) -> Result<Payload, String> {
        let mut payload = Payload::default();
        if let Some(wanted) = &volume.secret {
            let name = wanted.secret_name.as_deref().unwrap_or_default();
            let mode = mode(wanted.default_mode, FILE_MODE);
            data(origin, &mut payload, DataKind::Secret, name, wanted.items.as_ref(), wanted.optional, mode)?;
        } else if let Some(wanted) = &volume.config_map {
            let mode = mode(wanted.default_mode, FILE_MODE);
            let items = wanted.items.as_ref();
            data(origin, &mut payload, DataKind::ConfigMap, &wanted.name, items, wanted.optional, mode)?;
        } else if let Some(wanted) = &volume.downward_api {
            downward(origin, &mut payload, wanted.items.as_ref(), mode(wanted.default_mode, FILE_MODE))?;
        } else if let Some(wanted) = &volume.projected {
            let mode = mode(wanted.default_mode, FILE_MODE);
            for (index, source) in wanted.sources.iter().flatten().enumerate() {
                self.project(origin, &mut payload, (&volume.name, index), source, mode).await?;
            }
        } else {
            return Err(
                "a lab does not support volumes of this kind (it supports emptyDir, secret, configMap, projected, \
                        downwardAPI and hostPath)"
                    .into(),
            );
        }
        Ok(payload)
    }

    async fn project(
        &mut self,
        origin: VolumeContext<'_>,
        payload: &mut Payload,
        place: (&str, usize),
        source: &VolumeProjection,
        mode: u32,
    ) -> Result<(), String> {
        if let Some(wanted) = &source.secret {
            data(origin, payload, DataKind::Secret, &wanted.name, wanted.items.as_ref(), wanted.optional, mode)?;
        }
        if let Some(wanted) = &source.config_map {
            data(origin, payload, DataKind::ConfigMap, &wanted.name, wanted.items.as_ref(), wanted.optional, mode)?;
        }
        if let Some(wanted) = &source.downward_api {
            downward(origin, payload, wanted.items.as_ref(), mode)?;
        }
        if let Some(wanted) = &source.service_account_token {
            let parameters = TokenParameters {
                pod: PodRef::of(origin.pod),
                service_account: service_account(origin.pod),
                audience: wanted.audience.clone().filter(|audience| !audience.is_empty()),
                seconds: wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS).max(1),
            };
            let text = self.token(origin.host, (place.0.to_owned(), place.1), &parameters).await?;
            payload.add(&wanted.path, File { bytes: text.into_bytes(), mode })?;
        }
        Ok(())
    }

    /// Returns the token of a source of a volume, renewed when most of its lifetime is over. The old token stays if
    /// renewal fails.
    async fn token(
        &mut self,
        host: &Host,
        place: (String, usize),
        parameters: &TokenParameters,
    ) -> Result<String, String> {
        let now = Instant::now();
        if let Some(token) = self.tokens.get(&place).filter(|token| token.refresh_at > now) {
            return Ok(token.text.clone());
        }
        match host.cluster.token(parameters).await {
            Ok(text) => {
                let life =
                    Duration::from_secs(u64::try_from(parameters.seconds).unwrap_or_default()).mul_f64(TOKEN_SHARE);
                self.tokens.insert(place, ProjectedToken { text: text.clone(), refresh_at: now + life });
                Ok(text)
            }
            Err(error) => match self.tokens.get_mut(&place) {
                Some(token) => {
                    token.refresh_at = now + Duration::from_secs(5);
                    Ok(token.text.clone())
                }
                None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }
}

fn mode(given: Option<i32>, default: u32) -> u32 {
    given.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

fn make_directory(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o777)))
        .map_err(|error| format!("cannot create {}: {error}", path.display()))
}

/// Adds the keys of a Secret or ConfigMap, or the listed items.
fn data(
    origin: VolumeContext<'_>,
    payload: &mut Payload,
    kind: DataKind,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    optional: Option<bool>,
    mode: u32,
) -> Result<(), String> {
    let namespace = origin.pod.metadata.namespace.as_deref().unwrap_or_default();
    let optional = optional == Some(true);
    let Some(found) = origin.host.objects.get(kind, namespace, name) else {
        return if optional { Ok(()) } else { Err(format!("{kind} {name:?} not found")) };
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return found.iter().try_for_each(|(key, bytes)| payload.add(key, File { bytes: bytes.clone(), mode }));
    };
    for item in items {
        let mode = self::mode(item.mode, mode);
        match found.get(&item.key) {
            Some(bytes) => payload.add(&item.path, File { bytes: bytes.clone(), mode })?,
            None if optional => {}
            None => return Err(format!("references non-existent {kind} key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    origin: VolumeContext<'_>,
    payload: &mut Payload,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    mode: u32,
) -> Result<(), String> {
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(wanted), _) => field(origin.pod, origin.addresses, &wanted.field_path)?,
            (None, Some(wanted)) => {
                let spec = origin.pod.spec.as_ref().ok_or("the pod has no spec")?;
                let first = spec.containers.first().ok_or("the pod has no container")?;
                resource(origin.pod, first, wanted)?
            }
            (None, None) => return Err(format!("item {:?} has no source", item.path)),
        };
        payload.add(&item.path, File { bytes: text.into_bytes(), mode: self::mode(item.mode, mode) })?;
    }
    Ok(())
}

/// Checks a path of the host, and creates it if its type says so.
fn host_path(path: &str, kind: &str) -> Result<PathBuf, String> {
    let wanted = Path::new(path);
    let failed = |error: std::io::Error| format!("hostPath {path}: {error}");
    match kind {
        "DirectoryOrCreate" => fs::create_dir_all(wanted).map_err(failed)?,
        "FileOrCreate" if !wanted.exists() => drop(fs::File::create(wanted).map_err(failed)?),
        _ => {}
    }
    let real = wanted.canonicalize().map_err(failed)?;
    match kind {
        "Directory" if !real.is_dir() => Err(format!("hostPath type check failed: {path} is not a directory")),
        "File" if !real.is_file() => Err(format!("hostPath type check failed: {path} is not a file")),
        _ => Ok(real),
    }
}
