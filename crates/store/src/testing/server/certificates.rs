//! TLS certificates for test servers: a certificate authority, and a certificate for the loopback addresses.

use std::path::Path;
use std::{fs, io, os::unix::fs::PermissionsExt as _};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::host::set_owner;

pub(super) const CA: &str = "ca.pem";
pub(super) const CERTIFICATE: &str = "server.pem";
pub(super) const KEY: &str = "server.key";

/// Writes the certificate authority, the certificate and its key into `folder`. Only `owner` can read the
/// files.
pub(super) fn write(folder: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    for (name, pem) in make().map_err(io::Error::other)? {
        let path = folder.join(name);
        fs::write(&path, pem)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        set_owner(&path, owner)?;
    }
    Ok(())
}

fn make() -> Result<[(&'static str, String); 3], rcgen::Error> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "Kith test authority");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let mut server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &ca)?;
    Ok([(CA, ca.pem()), (CERTIFICATE, certificate.pem()), (KEY, key.serialize_pem())])
}
