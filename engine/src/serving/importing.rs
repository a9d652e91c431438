//! Prefixes that are taken over from elsewhere, some layers between two steps.
//!
//! All of their bytes are there: what is slow has been done. They become visible together, when the last layer has been
//! written.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::step::settle;
use super::thread::EngineThread;
use crate::blocks::{BlockId, BlockTable};
use crate::kv::PutLayer;
use crate::schedule::ImportRefusal;
use crate::transfer::{BlockSource, CacheDescription, ImportError, Prefix};

/// A prefix to take over.
pub(super) struct Import {
    pub(super) prefix: Prefix,
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) description: Arc<CacheDescription>,
    /// How many blocks were new, when they are there.
    pub(super) done: SyncSender<Result<usize, ImportError>>,
}

/// One that has blocks.
pub(super) struct Importing {
    import: Import,
    table: BlockTable,
    /// Those that are put: their numbers in the prompt and in the pool.
    blocks: Vec<(usize, BlockId)>,
    next_layer: usize,
}

impl EngineThread {
    /// Takes blocks for a prefix.
    pub(super) fn begin_import(&mut self, import: Import) {
        let cached = self.scheduler.cached(&[&import.prefix.tokens[..], &[0]].concat());
        match self.scheduler.begin_import(&import.prefix.tokens, import.prefix.blocks.len()) {
            Ok(table) => {
                // Steps under way may still use blocks that were free to be taken.
                settle(self);
                let blocks = table.blocks().iter().copied().enumerate().skip(cached).collect();
                self.imports.push_back(Importing { import, table, blocks, next_layer: 0 });
            }
            Err(refusal) => {
                let wanted = import.prefix.blocks.start;
                // Who waits for it may have gone.
                let _ = import.done.send(Err(match refusal {
                    ImportRefusal::PrefixGone { cached } => ImportError::PrefixGone { wanted, cached },
                    ImportRefusal::NoRoom(out) => out.into(),
                }));
            }
        }
    }

    /// Takes over as many layers of the first prefix as cost little beside a step.
    pub(super) fn go_on_importing(&mut self) {
        let Some(mut importing) = self.imports.pop_front() else { return };
        match importing.some_layers(self) {
            Ok(false) => self.imports.push_front(importing),
            Ok(true) => {
                let Importing { import, table, blocks, .. } = importing;
                self.scheduler.finish_import(table, &import.prefix.tokens);
                let _ = import.done.send(Ok(blocks.len()));
            }
            Err(error) => self.give_up(importing, &error.to_string()),
        }
    }

    /// Gives up what is not done.
    pub(super) fn end_imports(&mut self) {
        while let Some(importing) = self.imports.pop_front() {
            self.give_up(importing, "the engine has ended");
        }
    }

    fn give_up(&mut self, importing: Importing, why: &str) {
        self.scheduler.give_up_import(importing.table);
        let _ = importing.import.done.send(Err(ImportError::Failed(why.to_owned())));
    }
}

impl Importing {
    /// Puts some layers; true when all have been.
    fn some_layers(&mut self, engine: &mut EngineThread) -> mlxcel_mlx_bridge::Result<bool> {
        let layout = &self.import.description.layout;
        let mut bytes = 0;
        while let Some(heads) = layout.layers.get(self.next_layer) {
            if bytes >= SLICE_BYTES || self.blocks.is_empty() {
                break;
            }
            let layer = PutLayer { number: self.next_layer, heads, layout };
            engine.executor.put(&layer, &self.blocks, self.import.source.as_ref())?;
            bytes += 2 * self.blocks.len() * layout.image_bytes(heads);
            self.next_layer += 1;
        }
        Ok(self.next_layer == layout.layers.len() || self.blocks.is_empty())
    }
}

/// A few milliseconds of copying.
const SLICE_BYTES: usize = 16 << 20;
