//! Whether a hash tree of dm-verity leads from its root to its leaves (crypto.md 5.4).
//!
//! About a hundredth of the image is read, and nothing of the image itself: the kernel does that block by block.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use cml_sys::dm::verity::{Algorithm, SIZE, Superblock};
use sha2::{Digest, Sha256, Sha512};

/// What a tree is promised to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Bytes of the image below it.
    pub size: u64,
    /// The digest at its top.
    pub root: Vec<u8>,
}

/// Bytes of a block of data or digests; the superblock takes the first one.
const BLOCK: usize = 4096;

impl Tree {
    /// Whether this file is that tree.
    pub fn is_whole(&self, path: &Path) -> bool {
        self.check(path).unwrap_or_default()
    }

    /// `None`: it cannot be read, or is no tree for such an image.
    fn check(&self, path: &Path) -> Option<bool> {
        let file = cml_sys::file::open(path).ok()?;
        let mut start = [0; SIZE];
        file.read_exact_at(&mut start, 0).ok()?;
        let super_block = Superblock::parse(&start, self.size).ok()?;
        let digest = |block: &[u8]| digest(&super_block, block);
        let levels = levels(&super_block);
        let Some((top, below)) = levels.split_first() else {
            // An image of one block has no digests but the root, and that is the image's.
            return Some(true);
        };
        if digest(&block(&file, top.first)?) != self.root {
            return Some(false);
        }
        let mut above = top;
        for level in below {
            for index in 0..level.blocks {
                let expected = entry(&file, &super_block, above, index)?;
                if digest(&block(&file, level.first + index)?) != expected {
                    return Some(false);
                }
            }
            above = level;
        }
        Some(true)
    }
}

/// Blocks of digests of the same height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    /// The first of them, counted from the beginning of the file.
    first: u64,
    blocks: u64,
}

/// How many digests are in a block.
fn fan_out(tree: &Superblock) -> u64 {
    (BLOCK / tree.algorithm.bytes()) as u64
}

/// The levels of the tree, the top first, as they lie in the file.
fn levels(tree: &Superblock) -> Vec<Level> {
    let mut counts = Vec::new();
    let mut blocks = tree.data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(fan_out(tree));
        counts.push(blocks);
    }
    let mut first = 1;
    let down = counts.into_iter().rev().map(|blocks| {
        let level = Level { first, blocks };
        first += blocks;
        level
    });
    down.collect()
}

fn block(file: &File, index: u64) -> Option<[u8; BLOCK]> {
    let mut bytes = [0; BLOCK];
    let at = index.checked_mul(BLOCK as u64)?;
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

/// The digest in this level of the block `index` below it.
fn entry(file: &File, tree: &Superblock, level: &Level, index: u64) -> Option<Vec<u8>> {
    let mut digest = vec![0; tree.algorithm.bytes()];
    let at = level.first * BLOCK as u64 + index * digest.len() as u64;
    file.read_exact_at(&mut digest, at).ok()?;
    Some(digest)
}

fn digest(tree: &Superblock, block: &[u8]) -> Vec<u8> {
    match tree.algorithm {
        Algorithm::Sha256 => Sha256::new_with_prefix(&tree.salt)
            .chain_update(block)
            .finalize()
            .to_vec(),
        Algorithm::Sha512 => Sha512::new_with_prefix(&tree.salt)
            .chain_update(block)
            .finalize()
            .to_vec(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    /// A tree of `veritysetup` over so many blocks.
    fn made(dir: &Path, blocks: usize) -> Tree {
        let (data, tree) = (dir.join("data"), dir.join("tree"));
        let bytes: Vec<u8> = (0..blocks * BLOCK).map(|n| (n / 7) as u8).collect();
        std::fs::write(&data, bytes).unwrap();
        let output = Command::new("veritysetup")
            .arg("format")
            .arg(&data)
            .arg(&tree)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let root = text
            .lines()
            .find_map(|line| line.strip_prefix("Root hash:"))
            .unwrap();
        Tree {
            size: (blocks * BLOCK) as u64,
            root: hex::decode(root.trim()).unwrap(),
        }
    }

    #[test]
    fn a_tree_is_whole_until_a_byte_of_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        // One level, two levels, and a little more than that.
        for blocks in [2, 128, 129, 300] {
            let tree = made(dir.path(), blocks);
            let path = dir.path().join("tree");
            assert!(tree.is_whole(&path), "{blocks}");
            let good = std::fs::read(&path).unwrap();
            for at in [0, BLOCK + 5, good.len() - BLOCK + 9] {
                let mut bad = good.clone();
                bad[at] ^= 1;
                std::fs::write(&path, bad).unwrap();
                assert!(!tree.is_whole(&path), "{blocks} {at}");
            }
            std::fs::write(&path, &good[..good.len() - 1]).unwrap();
            assert!(!tree.is_whole(&path), "{blocks}");
            std::fs::write(&path, "<html>error page</html>").unwrap();
            assert!(!tree.is_whole(&path));
        }
    }
}
