//! The server's own secrets (OPAQUE setup, proof key, token key), sealed under the database's key in a file
//! beside the database: a store then needs to know nothing of them, whatever its kind.

use qpc_protocol::crypto::{Backend, seal};
use qpc_protocol::server::ServerSecrets;

use crate::error::StartError;
use crate::files::{DataDir, read, write_private};

const FILE: &str = "secrets.sealed";
const CONTEXT: &[u8] = b"qpc-server-secrets-v1";

/// Whether a server has lived in this directory.
pub(crate) fn exist(dir: &DataDir) -> bool {
    dir.join(FILE).exists()
}

/// Opens the secrets; makes them if `may_make`, that is, if nothing was ever stored under others.
pub(crate) fn obtain(
    dir: &DataDir,
    backend: Backend,
    key: &[u8; 32],
    may_make: bool,
) -> Result<ServerSecrets, StartError> {
    let file = dir.join(FILE);
    let shown = file.display();
    if let Some(sealed) = read(&file)? {
        let opened = seal::open_with_key(backend, key, &sealed, CONTEXT).map_err(|_| {
            StartError::Secrets(format!(
                "{shown} does not open: the database's key is not the one this server was made with, or the file \
                 is damaged\nGive the right key in QPC_DB_KEY or --db-key-file."
            ))
        })?;
        return ServerSecrets::decode(&opened).ok_or_else(|| {
            StartError::Secrets(format!("{shown} was written by a newer program: use that one"))
        });
    }
    if !may_make {
        return Err(StartError::Secrets(format!(
            "{shown} is missing, but there is a database: without its secrets nobody could log in any more\n\
             Bring the file back from a backup, or start anew in another --data-dir."
        )));
    }
    let mut entropy = qpc_smol::entropy().map_err(StartError::System)?;
    let secrets = ServerSecrets::generate(&mut entropy);
    let sealed = seal::seal_with_key(backend, key, &secrets.encode(), CONTEXT, &mut entropy)
        .map_err(|error| StartError::Secrets(error.to_string()))?;
    write_private(&file, &sealed)?;
    Ok(secrets)
}
