package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"
)

// maxLine is the longest line that is read as a record: ours are far shorter.
const maxLine = 64 << 10

func readFile(name string, from, to time.Time, each func(Record) error) (broken int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	return readRecords(f, from, to, each)
}

// readRecords reads lines of JSON.
func readRecords(in io.Reader, from, to time.Time, each func(Record) error) (broken int, err error) {
	br := bufio.NewReaderSize(in, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			broken++
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = br.ReadSlice('\n')
			}
			line = nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return broken, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			var r Record
			switch bad := json.Unmarshal(line, &r); {
			case bad != nil:
				broken++
			case !r.Time.Before(from) && r.Time.Before(to):
				if err := each(r); err != nil {
					return broken, err
				}
			}
		}
		if err != nil {
			return broken, nil
		}
	}
}
