package cloud

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"hafen/gateway/frugal"
)

// The two frames that make pion's stream framing spin for ever: their lengths overflow 16 bits.
func killers() map[string][]byte {
	return map[string][]byte{
		"STUN":        append([]byte{0x00, 0x01, 0xFF, 0xEC, 0x21, 0x12, 0xA4, 0x42}, make([]byte, 12)...),
		"ChannelData": append([]byte{0x40, 0x00, 0xFF, 0xFD}, make([]byte, 16)...),
	}
}

func TestReadFrame(t *testing.T) {
	binding := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, make([]byte, 12)...)
	padded := []byte{0x40, 1, 0, 5, 'h', 'e', 'l', 'l', 'o', 0, 0, 0}
	r := bufio.NewReaderSize(bytes.NewReader(append(append([]byte{}, binding...), padded...)), maxFrame)
	for i, want := range [][]byte{binding, padded} {
		if got, err := readFrame(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("frame %d: %x %v", i, got, err)
		}
	}
	if _, err := readFrame(r); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	bad := killers()
	bad["HTTP"] = []byte("GET / HTTP/1.1\r\n\r\n")
	bad["no cookie"] = append([]byte{0, 1, 0, 0, 1, 2, 3, 4}, make([]byte, 12)...)
	bad["odd length"] = append([]byte{0, 1, 0, 3, 0x21, 0x12, 0xA4, 0x42}, make([]byte, 16)...)
	bad["attribute beyond the end"] = append([]byte{0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42}, append(make([]byte, 12), 0, 6, 0, 8)...)
	bad["a channel number of RFC 5766"] = []byte{0x50, 0, 0, 0}
	for name, b := range bad {
		if _, err := readFrame(bufio.NewReader(bytes.NewReader(b))); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDatagramsMayLeaveOutThePadding(t *testing.T) {
	if err := checkFrame([]byte{0x40, 1, 0, 5, 'h', 'e', 'l', 'l', 'o'}); err != nil {
		t.Error(err)
	}
	if err := checkFrame([]byte{0x40, 1, 0, 6, 'h', 'e', 'l', 'l', 'o'}); err == nil {
		t.Error("ChannelData that ends early was accepted")
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, b := range killers() {
		f.Add(b)
	}
	f.Add([]byte{0x40, 1, 0, 5, 'h', 'e', 'l', 'l', 'o', 0, 0, 0})
	f.Add(append([]byte{0, 1, 0, 8, 0x21, 0x12, 0xA4, 0x42}, append(make([]byte, 12), 0, 0x12, 0, 0, 0, 6, 0, 0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Input(t)()
		g := &guard{realm: "r", secret: "s", now: fixedNow, allowed: anyPeer, allocated: always}
		r := bufio.NewReaderSize(bytes.NewReader(b), maxFrame)
		for read := 0; ; {
			frame, err := readFrame(r)
			if err != nil {
				return
			}
			if read += len(frame); read > len(b) || len(frame) < 4 || len(frame) > maxFrame || len(frame)%4 != 0 {
				t.Fatalf("a frame of %d bytes out of %d", len(frame), len(b))
			}
			if frame[0]>>4 != 4 {
				_ = hasIntegrity(frame)
			}
			pass, answer := g.inspect(frame, clientAddr, localAddr)
			for _, out := range [][]byte{pass, answer} {
				if out != nil && checkFrame(out) != nil {
					t.Fatalf("the guard made %x of %x", out, frame)
				}
			}
		}
	})
}
