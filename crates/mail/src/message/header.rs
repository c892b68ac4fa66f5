//! Header fields of a message and of its parts: reading the original, recording changes.

use bytes::Bytes;

use super::{MailMessage, ROOT, check_name, written_field};
use crate::{FieldOptions, HeaderIndex, MailError, WriteOptions, changes::name_of, header::Field, words};

impl MailMessage {
    /// Puts a field on top of the header.
    ///
    /// # Errors
    /// [`MailError::HeaderName`], or reading the header failed.
    pub fn prepend_header(
        &mut self,
        name: &str,
        value: &[u8],
        options: WriteOptions,
    ) -> Result<(), MailError> {
        self.prepend_part_header(ROOT, name, value, options)
    }

    /// Puts a field at the end of the header.
    ///
    /// # Errors
    /// As [`MailMessage::prepend_header`].
    pub fn append_header(
        &mut self,
        name: &str,
        value: &[u8],
        options: WriteOptions,
    ) -> Result<(), MailError> {
        let field = written_field(name, value, options)?;
        if self.header()?.end() == 0 {
            self.change_part(ROOT).top.push_front(field.into());
        } else {
            self.change_part(ROOT).bottom.push(field.into());
        }
        Ok(())
    }

    /// Replaces a field and returns how many were changed (0 or 1). Without `index` it is the topmost one, be it of
    /// the original or added; a field that does not exist is put on top (only for no index and index 0).
    ///
    /// # Errors
    /// As [`MailMessage::prepend_header`].
    pub fn set_header(
        &mut self,
        name: &str,
        value: &[u8],
        index: Option<usize>,
        options: WriteOptions,
    ) -> Result<usize, MailError> {
        self.set_part_header(ROOT, name, value, index, options)
    }

    /// Removes fields and returns how many: without `index` all of the name, added ones too.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn del_header(&mut self, name: &str, index: Option<usize>) -> Result<usize, MailError> {
        self.del_part_header(ROOT, name, index)
    }

    /// Gives all fields of a name another one and returns how many; their bodies stay byte for byte.
    ///
    /// # Errors
    /// [`MailError::HeaderName`], or reading the header failed.
    pub fn rename_header(&mut self, name: &str, new_name: &str) -> Result<usize, MailError> {
        self.rename_part_header(ROOT, name, new_name)
    }

    /// A field of the original: the one of that name at `index` from the top.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn get_header(
        &self,
        name: &str,
        index: usize,
        options: FieldOptions,
    ) -> Result<Option<Vec<u8>>, MailError> {
        self.part_field(ROOT, name, index, options)
    }

    /// All fields of a name in the original, top first.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn get_headers(&self, name: &str, options: FieldOptions) -> Result<Vec<Vec<u8>>, MailError> {
        self.part_fields(ROOT, name, options)
    }

    /// The names of all fields of the original, lower-case, top first.
    ///
    /// # Errors
    /// Reading the header failed.
    pub fn header_names(&self) -> Result<Vec<String>, MailError> {
        self.part_header_names(ROOT)
    }

    /// As [`MailMessage::prepend_header`], of a part.
    ///
    /// # Errors
    /// As there.
    pub fn prepend_part_header(
        &mut self,
        part: usize,
        name: &str,
        value: &[u8],
        options: WriteOptions,
    ) -> Result<(), MailError> {
        let field = written_field(name, value, options)?;
        self.change_part(part).top.push_front(field.into());
        Ok(())
    }

    /// As [`MailMessage::set_header`], of a part.
    ///
    /// # Errors
    /// As there.
    pub fn set_part_header(
        &mut self,
        part: usize,
        name: &str,
        value: &[u8],
        index: Option<usize>,
        options: WriteOptions,
    ) -> Result<usize, MailError> {
        let field = Bytes::from(written_field(name, value, options)?);
        self.set_part_field(part, name, index, field)
    }

    pub(super) fn set_part_field(
        &mut self,
        part: usize,
        name: &str,
        index: Option<usize>,
        field: Bytes,
    ) -> Result<usize, MailError> {
        let number =
            numbered(&*self.part_header(part)?, name).nth(index.unwrap_or(0)).map(|(number, _)| number);
        if let Some(number) = number {
            self.change_part(part).fields.insert(number, field);
            return Ok(1);
        }
        if index.unwrap_or(0) > 0 {
            return Ok(0);
        }
        let changes = self.change_part(part);
        let added = changes.top.iter_mut().chain(&mut changes.bottom);
        for known in added {
            if name_of(known).eq_ignore_ascii_case(name.as_bytes()) {
                *known = field;
                return Ok(1);
            }
        }
        changes.top.push_front(field);
        Ok(1)
    }

    /// As [`MailMessage::del_header`], of a part.
    ///
    /// # Errors
    /// As there.
    pub fn del_part_header(
        &mut self,
        part: usize,
        name: &str,
        index: Option<usize>,
    ) -> Result<usize, MailError> {
        let numbers: Vec<usize> = {
            let header = self.part_header(part)?;
            let all = numbered(&header, name).map(|(number, _)| number);
            match index {
                Some(index) => all.skip(index).take(1).collect(),
                None => all.collect(),
            }
        };
        let changes = self.change_part(part);
        let mut removed = 0;
        for number in numbers {
            let before = changes.fields.insert(number, Bytes::new());
            removed += usize::from(before.is_none_or(|text| !text.is_empty()));
        }
        if index.is_none() {
            let before = changes.top.len() + changes.bottom.len();
            let stays = |field: &Bytes| !name_of(field).eq_ignore_ascii_case(name.as_bytes());
            changes.top.retain(stays);
            changes.bottom.retain(stays);
            removed += before - changes.top.len() - changes.bottom.len();
        }
        Ok(removed)
    }

    /// As [`MailMessage::rename_header`], of a part.
    ///
    /// # Errors
    /// As there.
    pub fn rename_part_header(
        &mut self,
        part: usize,
        name: &str,
        new_name: &str,
    ) -> Result<usize, MailError> {
        check_name(new_name)?;
        let renamed: Vec<(usize, Bytes)> = {
            let header = self.part_header(part)?;
            let none = crate::changes::PartChanges::default();
            let changes = self.state.parts.get(&part).unwrap_or(&none);
            numbered(&header, name)
                .filter_map(|(number, field)| {
                    let text = changes.current(&header, number, field)?;
                    let colon = memchr::memchr(b':', text).unwrap_or(text.len());
                    Some((number, Bytes::from([new_name.as_bytes(), &text[colon..]].concat())))
                })
                .collect()
        };
        let count = renamed.len();
        if count > 0 {
            self.change_part(part).fields.extend(renamed);
        }
        Ok(count)
    }

    /// As [`MailMessage::get_header`], of a part.
    ///
    /// # Errors
    /// As there.
    pub fn part_field(
        &self,
        part: usize,
        name: &str,
        index: usize,
        options: FieldOptions,
    ) -> Result<Option<Vec<u8>>, MailError> {
        let header = self.part_header(part)?;
        let found = header.named(name).nth(index).map(|field| value(&header, field, options));
        Ok(found)
    }

    /// As [`MailMessage::get_headers`], of a part.
    ///
    /// # Errors
    /// As there.
    pub fn part_fields(
        &self,
        part: usize,
        name: &str,
        options: FieldOptions,
    ) -> Result<Vec<Vec<u8>>, MailError> {
        let header = self.part_header(part)?;
        Ok(header.named(name).map(|field| value(&header, field, options)).collect())
    }

    /// As [`MailMessage::header_names`], of a part.
    ///
    /// # Errors
    /// As there.
    pub fn part_header_names(&self, part: usize) -> Result<Vec<String>, MailError> {
        let header = self.part_header(part)?;
        let names = header.fields().iter().map(|field| header.name(field)).filter(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect())
    }
}

/// The fields of a name with their numbers in the header.
fn numbered<'a>(header: &'a HeaderIndex, name: &'a str) -> impl Iterator<Item = (usize, &'a Field)> {
    let fields = header.fields().iter().enumerate();
    fields.filter(move |(_, field)| header.name(field).eq_ignore_ascii_case(name.as_bytes()))
}

/// A field in the form the options ask for; raw 8-bit text is taken in the charset that the header itself names.
fn value(header: &HeaderIndex, field: &Field, options: FieldOptions) -> Vec<u8> {
    let body = header.body(field);
    if !options.decode || options.field || body.is_ascii() || std::str::from_utf8(body).is_ok() {
        return header.value(field, options);
    }
    let charset = header
        .named("Content-Type")
        .next()
        .and_then(|field| crate::mime::Parameters::parse(&words::unfold(header.body(field))).get("charset"));
    match charset {
        Some(charset) => words::decode(words::charset_text(body, &charset).as_bytes()).into_bytes(),
        None => header.value(field, options),
    }
}
