package signaling

import "sync"

// bufferSize is one TLS record: nothing larger comes in one piece.
const bufferSize = 16 << 10

// buffers are reused between answers and between busy sockets.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{pool: sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// Get is httputil.BufferPool's.
func (b *buffers) Get() []byte {
	buf, _ := b.pool.Get().(*[bufferSize]byte)
	return buf[:]
}

// Put is httputil.BufferPool's.
func (b *buffers) Put(buf []byte) {
	if len(buf) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(buf))
	}
}
