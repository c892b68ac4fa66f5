//! `zlib_compress` and `zlib_uncompress` (library section 6): zlib, raw deflate and gzip by the window bits of zlib.

use crate::support::STRING_MAX;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use hsl::{Args, Error, FunctionDef, Value};

/// The functions.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "zlib_compress(string: string, compression?: number, windowbits?: number) -> string",
            "Compresses at level -1 to 9. The window bits are 8 to 15 for zlib, -8 to -15 for raw deflate, 24 to 31 for \
             gzip.",
            |_, a| {
                let level = a.integer_or(1, -1)?;
                if !(-1..=9).contains(&level) {
                    return Err(Error::exception(format!(
                        "zlib_compress(): expected level -1 to 9, {level} given"
                    )));
                }
                compress(&a, if level < 0 { 6 } else { level as u32 })
            },
        ),
        FunctionDef::pure(
            "zlib_uncompress(string: string, windowbits?: number) -> string",
            "Undoes compression; window bits as above, and 40 to 47 to tell zlib from gzip by itself.",
            |_, a| uncompress(&a),
        ),
    ]
}

enum Format {
    Zlib(u8),
    Raw(u8),
    Gzip(u8),
}

fn format(function: &str, args: &Args<'_>, at: usize) -> Result<Format, Error> {
    let bits = args.integer_or(at, 15)?;
    let window = |bits: i64| (bits as u8).max(9);
    match bits {
        8..=15 => Ok(Format::Zlib(window(bits))),
        -15..=-8 => Ok(Format::Raw(window(-bits))),
        24..=31 => Ok(Format::Gzip(window(bits - 16))),
        40..=47 if function == "zlib_uncompress" => Ok(if args.bytes(0).starts_with(&[0x1f, 0x8b]) {
            Format::Gzip(window(bits - 32))
        } else {
            Format::Zlib(window(bits - 32))
        }),
        _ => Err(Error::exception(format!("{function}(): window bits {bits} have no meaning"))),
    }
}

fn compress(args: &Args<'_>, level: u32) -> Result<Value, Error> {
    let level = Compression::new(level);
    let mut stream = match format("zlib_compress", args, 2)? {
        Format::Zlib(bits) => Compress::new_with_window_bits(level, true, bits),
        Format::Raw(bits) => Compress::new_with_window_bits(level, false, bits),
        Format::Gzip(bits) => Compress::new_gzip(level, bits),
    };
    let input = args.bytes(0);
    let mut out = Vec::with_capacity(input.len() / 2 + 64);
    loop {
        let rest = &input[stream.total_in() as usize..];
        let status = stream
            .compress_vec(rest, &mut out, FlushCompress::Finish)
            .map_err(|e| Error::exception(format!("zlib_compress(): {e}")))?;
        if status == Status::StreamEnd {
            return Ok(out.into());
        }
        out.reserve(out.len().max(64));
    }
}

fn uncompress(args: &Args<'_>) -> Result<Value, Error> {
    let mut stream = match format("zlib_uncompress", args, 1)? {
        Format::Zlib(bits) => Decompress::new_with_window_bits(true, bits),
        Format::Raw(bits) => Decompress::new_with_window_bits(false, bits),
        Format::Gzip(bits) => Decompress::new_gzip(bits),
    };
    let input = args.bytes(0);
    let mut out = Vec::with_capacity(input.len().saturating_mul(3).clamp(64, 1 << 20));
    loop {
        let (before, had) = (stream.total_in(), out.len());
        let status = stream
            .decompress_vec(&input[before as usize..], &mut out, FlushDecompress::None)
            .map_err(|e| Error::exception(format!("zlib_uncompress(): {e}")))?;
        if status == Status::StreamEnd {
            return Ok(out.into());
        }
        if out.len() > STRING_MAX {
            return Err(Error::too_large("zlib_uncompress"));
        }
        if out.len() < out.capacity() && stream.total_in() == before && out.len() == had {
            return Err(Error::exception("zlib_uncompress(): the data ends early"));
        }
        hsl::check_memory(out.len())?;
        out.reserve(out.len().max(64));
    }
}
