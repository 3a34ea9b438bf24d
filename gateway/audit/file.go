package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// dayForm is behind the name of a day's file: audit.log.2026-11-27.
const dayForm = "2006-01-02"

// file is the audit log on disk: today's file has the name of the configuration, those of the days before have their day behind
// it.
type file struct {
	path string
	keep time.Duration
	now  func() time.Time

	out *os.File
	day string
}

func (f *file) open() error {
	out, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	f.out, f.day = out, f.now().UTC().Format(dayForm)
	if info, err := out.Stat(); err == nil && info.Size() > 0 {
		f.day = info.ModTime().UTC().Format(dayForm) // what an earlier run has left
	}
	f.expire()
	return nil
}

// write appends records and syncs them: what the auditor is to see survives a power cut.
func (f *file) write(_ context.Context, records []Record) error {
	if err := f.turn(); err != nil {
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, r := range records {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	at, err := f.out.Seek(0, 2)
	if err != nil {
		return err
	}
	if _, err := f.out.Write(b.Bytes()); err != nil {
		_ = f.out.Truncate(at) // no half line: a full disk takes the beginning of one
		return err
	}
	return f.out.Sync()
}

// turn begins a new file where the day has changed.
func (f *file) turn() error {
	if f.out == nil {
		return f.open()
	}
	today := f.now().UTC().Format(dayForm)
	if today == f.day {
		return nil
	}
	if err := os.Rename(f.path, f.path+"."+f.day); err != nil && !os.IsNotExist(err) {
		return err
	}
	f.close()
	return f.open()
}

func (f *file) close() {
	if f.out != nil {
		_ = f.out.Close() // every write was synced
		f.out = nil
	}
}

// expire deletes the days that are older than they may be.
func (f *file) expire() {
	for _, name := range dayFiles(f.path) {
		day, err := time.Parse(dayForm, name[len(f.path)+1:])
		if err == nil && f.keep > 0 && f.now().Sub(day) > f.keep+24*time.Hour {
			_ = os.Remove(name) // tried again tomorrow
		}
	}
}

// dayFiles are the files of the days before today, the oldest first.
func dayFiles(path string) []string {
	found, err := filepath.Glob(globEscape(path) + ".????-??-??")
	if err != nil {
		return nil
	}
	slices.Sort(found)
	return found
}

func globEscape(path string) string {
	var b []byte
	for i := range len(path) {
		if bytes.IndexByte([]byte(`*?[\`), path[i]) >= 0 {
			b = append(b, '\\')
		}
		b = append(b, path[i])
	}
	return string(b)
}

// Read gives the records of a file, and of the days before, that lie in [from, to), oldest first. A line that is no record, as a crash may
// leave one, is counted.
func Read(path string, from, to time.Time, each func(Record) error) (broken int, err error) {
	names := append(dayFiles(path), path)
	for _, name := range names {
		n, err := readFile(name, from, to, each)
		broken += n
		if err != nil && (!os.IsNotExist(err) || len(names) == 1) {
			return broken, fmt.Errorf("audit.file: %w", err)
		}
	}
	return broken, nil
}
