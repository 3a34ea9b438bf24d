package canary

// filter tells in a nanosecond a byte where a pattern may begin: by a bit for each eight bytes that patterns begin with. What begins so
// by chance is found out by who asks.
type filter [1 << (filterBits - 6)]uint64

const (
	filterBits = 20
	wide       = 8 // bytes
)

// window is the beginning of a text that is long enough.
func window(text string) (w uint64) {
	for i := range wide {
		w |= uint64(text[i]) << (8 * i)
	}
	return w
}

func bit(w uint64) (word, mask uint64) {
	h := w * 0x9e3779b97f4a7c15 >> (64 - filterBits)
	return h >> 6, 1 << (h & 63)
}

func (f *filter) set(w uint64) {
	word, mask := bit(w)
	f[word] |= mask
}

// next is the first place from which a pattern may begin; -1: none. The race detector would make it ten times slower; whoever calls it
// holds the registry's lock.
//
//go:norace
func (f *filter) next(text string, from int) int {
	var w uint64
	for i := from; i < len(text); i++ {
		w = w>>8 | uint64(text[i])<<(64-8)
		if word, mask := bit(w); f[word]&mask != 0 && i-from >= wide-1 {
			return i - (wide - 1)
		}
	}
	return -1
}
