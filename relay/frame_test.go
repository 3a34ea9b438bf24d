package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"hafen/gateway/frugal"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// stunFrame is a STUN message of a type with raw attributes.
func stunFrame(typ uint16, attrs ...[]byte) []byte {
	b := make([]byte, stunHeaderSize)
	binary.BigEndian.PutUint16(b, typ)
	binary.BigEndian.PutUint32(b[4:], stunCookie)
	copy(b[8:], "transaction1")
	for _, a := range attrs {
		b = append(b, a...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-stunHeaderSize))
	return b
}

// stunAttr is one attribute, padded.
func stunAttr(typ uint16, value []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return appendPadded(b, value)
}

// channelOf is unpadded ChannelData of n bytes.
func channelOf(number uint16, n int) []byte {
	b := binary.BigEndian.AppendUint16(nil, number)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	for i := range n {
		b = append(b, byte(i))
	}
	return b
}

// splitAll splits a stream that comes in the given pieces.
func splitAll(r *frameReader, pieces ...[]byte) ([][]byte, error) {
	var frames [][]byte
	for _, p := range pieces {
		err := r.split(p, time.Time{}, func(f []byte) error {
			frames = append(frames, bytes.Clone(f))
			return nil
		})
		if err != nil {
			return frames, err
		}
	}
	return frames, nil
}

func TestAbuse_A26(t *testing.T) {
	// a byte at a time, two in one segment, one across three.
	messages := [][]byte{
		stunFrame(0x0003, stunAttr(0x0019, []byte{17, 0, 0, 0})), channelOf(0x4000, 5), channelOf(0x7fff, 0), channelOf(0x4001, 1200),
		stunFrame(typeSendIndication, stunAttr(0x0013, make([]byte, 333))),
	}
	var stream []byte
	for _, m := range messages {
		stream = appendPadded(stream, m)
	}
	check := func(t *testing.T, got [][]byte, err error) {
		t.Helper()
		if err != nil || len(got) != len(messages) {
			t.Fatalf("got %d messages and %v", len(got), err)
		}
		for i := range got {
			if !bytes.Equal(got[i], messages[i]) {
				t.Errorf("message %d is %x", i, got[i])
			}
		}
	}
	for _, size := range []int{1, 2, 3, 7, 19, 21, 1201, len(stream)} {
		r := frameReader{strict: true}
		var pieces [][]byte
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		got, err := splitAll(&r, pieces...)
		check(t, got, err)
		if !r.unfinished().IsZero() || r.part != nil {
			t.Errorf("pieces of %d: the reader waits at a message's end", size)
		}
	}
}

func TestFrameReaderRefuses(t *testing.T) {
	const header = "2112a442000000000000000000000000"
	tests := []struct {
		id   string
		data []byte
	}{
		{"A-28", unhex("0001ffec" + header)},
		{"A-29 STUN fff0", unhex("0001fff0" + header)},
		{"A-29 STUN fffc", unhex("0001fffc" + header)},
		{"A-29 channel fffc", unhex("4000fffc")},
		{"A-29 channel fffd", unhex("4000fffd")},
		{"A-29 channel ffff", unhex("4000ffff")},
		{"A-29 channel fff0", unhex("4000fff0")},
		{"A-27 length 3", unhex("00010003" + header)},
		{"A-27 cookie", unhex("000100002112a443000000000000000000000000")},
		{"A-27 top bits 10", unhex("80010000" + header)},
		{"A-27 top bits 11", unhex("c0010000" + header)},
		{"longer than ever", channelOf(0x4000, maxFrame-3)},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n")},
	}
	for _, tt := range tests {
		inner := stunFrame(typeBinding)
		for _, pieces := range [][][]byte{{append(bytes.Clone(tt.data), inner...)}, segments(append(bytes.Clone(tt.data), inner...))} {
			r := frameReader{strict: true}
			got, err := splitAll(&r, pieces...)
			if !errors.Is(err, errFraming) || len(got) > 0 {
				t.Errorf("%s: %d messages, %v", tt.id, len(got), err)
			}
			r.release()
		}
	}
}

func segments(b []byte) [][]byte {
	var out [][]byte
	for i := range b {
		out = append(out, b[i:i+1])
	}
	return out
}

func TestFrameReaderSkipsWhatARegionSendsTooLong(t *testing.T) {
	long, short := channelOf(0x4000, 30000), channelOf(0x4001, 10)
	stream := appendPadded(appendPadded(nil, long), short)
	for _, pieces := range [][][]byte{{stream}, segments(stream), {stream[:2], stream[2:5000], stream[5000:]}} {
		var r frameReader
		got, err := splitAll(&r, pieces...)
		if err != nil || len(got) != 1 || !bytes.Equal(got[0], short) || r.dropped != 1 {
			t.Errorf("%d messages, %d dropped, %v", len(got), r.dropped, err)
		}
	}
}

func TestAbuse_A30(t *testing.T) {
	// every address attribute, of every length 0 to 24 and family 0 to 3, last in its message.
	good := stunFrame(typeBinding)
	for _, typ := range []uint16{0x0001, 0x0012, 0x0016, 0x0020, 0x8023, 0x802b, 0x802c} {
		for size := range 25 {
			for family := range byte(4) {
				value := make([]byte, size)
				if size > 1 {
					value[1] = family
				}
				sound := size == 8 && family == 1 || size == 20 && family == 2
				for _, method := range []uint16{typeSendIndication, 0x0008, 0x0009} {
					r := frameReader{strict: true}
					got, err := splitAll(&r, stunFrame(method, stunAttr(0x0013, make([]byte, 8)), stunAttr(typ, value)), good)
					want := 1
					if sound {
						want = 2
					}
					if err != nil || len(got) != want {
						t.Fatalf("attribute %04x of %d bytes, family %d: %d messages, %v", typ, size, family, len(got), err)
					}
				}
			}
		}
	}
	for name, bad := range map[string][]byte{
		"attribute past the end": stunFrame(3, unhex("000d0008"), unhex("00000000")),
		"half an attribute":      stunFrame(3, unhex("000dffff")),
	} {
		r := frameReader{strict: true}
		if got, err := splitAll(&r, bad, good); err != nil || len(got) != 1 || r.dropped != 1 {
			t.Errorf("%s: %d messages, %d dropped, %v", name, len(got), r.dropped, err)
		}
	}
}

func TestFrameReaderTellsSinceWhenItWaits(t *testing.T) {
	r := frameReader{strict: true}
	began := time.Unix(1000, 0)
	take := func([]byte) error { return nil }
	for i, b := range channelOf(0x4000, 1500)[:20] {
		if err := r.split([]byte{b}, began.Add(time.Duration(i)*time.Second), take); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.unfinished(); !got.Equal(began) {
		t.Errorf("waits since %v, want the first byte's time", got)
	}
	r.release()
	if !r.unfinished().IsZero() {
		t.Error("still waits")
	}
}

func TestFrameReaderStopsWithItsTaker(t *testing.T) {
	stop := errors.New("stop")
	var r frameReader
	calls := 0
	err := r.split(append(channelOf(0x4000, 4), channelOf(0x4000, 4)...), time.Time{}, func([]byte) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestTrimmed(t *testing.T) {
	data := channelOf(0x4000, 5)
	for name, tt := range map[string]struct {
		in   []byte
		want []byte
	}{
		"unpadded": {data, data}, "padded": {appendPadded(nil, data), data}, "more behind": {append(appendPadded(nil, data), 0), nil},
		"short": {data[:8], nil}, "empty": {nil, nil}, "STUN": {stunFrame(typeBinding), stunFrame(typeBinding)},
		"STUN and more": {append(stunFrame(typeBinding), 0, 0, 0, 0), nil},
	} {
		if got := trimmed(tt.in); !bytes.Equal(got, tt.want) || (got == nil) != (tt.want == nil) {
			t.Errorf("%s: %x", name, got)
		}
	}
}

func TestDataOf(t *testing.T) {
	inside := []byte{1, 2, 3}
	indication := stunFrame(typeDataIndication, stunAttr(0x0012, make([]byte, 8)), stunAttr(uint16(stun.AttrData), inside))
	if got := dataOf(indication); !bytes.Equal(got, inside) {
		t.Errorf("in an indication: %x", got)
	}
	if got := dataOf(stunFrame(typeBinding)); got != nil {
		t.Errorf("in a request: %x", got)
	}
	if got := dataOf(stunFrame(typeDataIndication)); got != nil {
		t.Errorf("in an empty indication: %x", got)
	}
}

// FuzzFrameReader: however a stream is cut, the messages are those of the stream in one piece, and each is valid.
func FuzzFrameReader(f *testing.F) {
	f.Add(appendPadded(appendPadded(nil, channelOf(0x4000, 5)), stunFrame(3)), uint64(1), true)
	f.Add(unhex("0001ffec2112a442000000000000000000000000"), uint64(2), false)
	f.Add(appendPadded(nil, channelOf(0x4000, 3000)), uint64(3), false)
	f.Add(append(channelOf(0x4001, 0), unhex("4000ffff00")...), uint64(4), true)
	f.Add(stunFrame(typeSendIndication, stunAttr(0x0012, nil)), uint64(5), true)
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, strict bool) {
		defer frugal.Input(t)()
		whole := frameReader{strict: strict}
		want, wantErr := splitAll(&whole, data)
		for _, m := range want {
			if !valid(m) {
				t.Fatalf("not valid: %x", m)
			}
			_ = kindOf(dataOf(m))
		}
		rng := rand.New(rand.NewPCG(seed, seed))
		var pieces [][]byte
		for rest := data; len(rest) > 0; {
			n := 1 + rng.IntN(min(len(rest), 40))
			pieces = append(pieces, bytes.Clone(rest[:n]))
			rest = rest[n:]
		}
		cut := frameReader{strict: strict}
		got, gotErr := splitAll(&cut, pieces...)
		if len(got) != len(want) || (gotErr == nil) != (wantErr == nil) || cut.dropped != whole.dropped {
			t.Fatalf("in pieces %d messages, %d dropped, %v; whole %d, %d, %v",
				len(got), cut.dropped, gotErr, len(want), whole.dropped, wantErr)
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("message %d differs", i)
			}
		}
		if gotErr == nil && (cut.partLen != whole.partLen || cut.skip != whole.skip) {
			t.Fatalf("waits for the rest of %d and skips %d; whole %d, %d", cut.partLen, cut.skip, whole.partLen, whole.skip)
		}
	})
}
