package forward

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
)

const (
	maxParent     = 1 << 20
	parentTimeout = 20 * time.Second
	parentMost    = 5 * time.Minute // between two looks
	parentLeast   = 30 * time.Second
	parentAgain   = 2 * time.Second // after a failure, doubled up to parentLeast
)

// Parent is the company's own PAC file.
type Parent struct {
	// Text is the file as it is.
	Text []byte
	// Charset is the encoding that its server named; "" if none, and then browsers go by the bytes.
	Charset string
}

// newParent looks at what is said to be a PAC file. It is not run here: what some browser can't run is not ours to
// judge. But what can't be one must not take the place of one that works: a page that asks for a login, half a file.
func newParent(text []byte, charset string) (*Parent, error) {
	switch {
	case len(text) > maxParent:
		return nil, fmt.Errorf("it is larger than %d KiB", maxParent>>10)
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		return nil, errors.New("it is in UTF-16: save it as UTF-8")
	case bytes.HasPrefix(bytes.TrimLeft(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), " \t\r\n"), []byte("<")):
		return nil, errors.New("it is a web page, not a PAC file")
	case bytes.Contains(text, []byte(pacMark)):
		return nil, errors.New("it is the PAC file of a Hafen gateway: name the company's own, which this one takes the place of")
	case !bytes.Contains(text, []byte("FindProxyForURL")):
		return nil, errors.New("it has no FindProxyForURL, so it is no PAC file")
	}
	if strings.Trim(charset, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || len(charset) > 40 {
		charset = ""
	}
	return &Parent{Text: text, Charset: charset}, nil
}

// charsetParameter is what of Content-Type comes behind the type.
func (p *Parent) charsetParameter() string {
	if p == nil || p.Charset == "" {
		return ""
	}
	return "; charset=" + p.Charset
}

// ReadParent finds the company's PAC file where the configuration names one without asking a network: pac.parent_file,
// or the last good copy of pac.parent. nil and no error: there is none, or none yet.
func ReadParent(c *configs.Config) (*Parent, error) {
	if c.PAC.ParentFile == "" {
		return readCopy(c)
	}
	text, err := readBounded(c.PAC.ParentFile)
	if err != nil {
		return nil, fmt.Errorf("pac.parent_file: %w", err)
	}
	p, err := newParent(text, "")
	if err != nil {
		return nil, fmt.Errorf("pac.parent_file: %s: %w", c.PAC.ParentFile, err)
	}
	return p, nil
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxParent+1024)) // and a little: what is too long must show
}

// FetchParent gets pac.parent from its server.
func FetchParent(ctx context.Context, c *configs.Config, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*Parent, error) {
	ctx, cancel := context.WithTimeout(ctx, parentTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.PAC.Parent, nil)
	if err != nil {
		return nil, errors.New("it is no URL") // the error would have the URL in it, and that may have a password in it
	}
	req.Header.Set("Accept", "application/x-ns-proxy-autoconfig, */*")
	transport := &http.Transport{
		DialContext: dial, DisableKeepAlives: true, TLSHandshakeTimeout: parentTimeout / 2, MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, CheckRedirect: fewRedirects}).Do(req)
	if err != nil {
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("its server answered %s", res.Status)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxParent+1))
	if err != nil {
		return nil, err
	}
	_, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		params = nil // then there is no charset in it
	}
	return newParent(text, params["charset"])
}

func fewRedirects(_ *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("it is redirected too often")
	}
	return nil
}

// copyFile is the last good copy of pac.parent. Its first line says of which URL, for that may change.
func copyFile(c *configs.Config) string { return filepath.Join(c.DataDir, "pac-parent") }

func copyHead(c *configs.Config, charset string) string {
	sum := sha256.Sum256([]byte(c.PAC.Parent))
	return "hafen pac-parent 1 " + hex.EncodeToString(sum[:]) + " " + charset + "\n"
}

// readCopy is nil without an error where there is no copy, or only one of another URL.
func readCopy(c *configs.Config) (*Parent, error) {
	if c.PAC.Parent == "" {
		return nil, nil
	}
	all, err := readBounded(copyFile(c))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("the copy of pac.parent: %w", err)
	}
	head, text, _ := strings.Cut(string(all), "\n")
	charset, ours := strings.CutPrefix(head, strings.TrimSuffix(copyHead(c, ""), "\n"))
	if !ours {
		return nil, nil
	}
	return newParent([]byte(text), charset)
}

// writeCopy replaces the copy as a whole or not at all.
func writeCopy(c *configs.Config, p *Parent) error {
	f, err := os.CreateTemp(c.DataDir, "pac-parent-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone when all went well
	_, err = f.Write(append([]byte(copyHead(c, p.Charset)), p.Text...))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), copyFile(c))
}

// parentKeeper has the company's PAC file, as new as it can be had: it looks again every few minutes, and keeps the last
// good one while its server is away or answers nonsense.
type parentKeeper struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	log   *slog.Logger
	again chan struct{} // look now

	mu     sync.Mutex
	config *configs.Config
	parent *Parent
	good   time.Time // when it was last found good; zero: never in this run
	said   string    // the last trouble that was logged
	fails  int       // in a row
}

func newParentKeeper(dial func(ctx context.Context, network, addr string) (net.Conn, error), log *slog.Logger, r prometheus.Registerer) *parentKeeper {
	k := &parentKeeper{dial: dial, log: log, again: make(chan struct{}, 1)}
	if r != nil {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hafen_forward_pac_parent_age_seconds", Help: "Since the company's own PAC file was last read without fault; 0 where none is configured.",
		}, k.age))
	}
	return k
}

// age is 0 without a parent. One that was not had in this run is as old as the process.
func (k *parentKeeper) age() float64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !hasParent(k.config) {
		return 0
	}
	return time.Since(k.good).Seconds()
}

// ParentState is how it stands with the company's own PAC file.
type ParentState struct {
	Configured, Have bool
	// Age is since it was last found good; Trouble is why it was not since, "" if it was.
	Age     time.Duration
	Trouble string
}

// ParentState tells whether the company's own PAC file can be had.
func (p *Proxy) ParentState() ParentState {
	k := p.parent
	k.mu.Lock()
	defer k.mu.Unlock()
	return ParentState{Configured: hasParent(k.config), Have: k.parent != nil, Age: time.Since(k.good), Trouble: k.said}
}

func hasParent(c *configs.Config) bool { return c.PAC.Parent != "" || c.PAC.ParentFile != "" }

func (k *parentKeeper) current() *Parent {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.parent
}

// prepare reads what a configuration names; use takes it. A file must be good now; what is fetched may come later, and until then the
// copy serves.
func (k *parentKeeper) prepare(c *configs.Config) (use func(), err error) {
	if c.PAC.Parent != "" && k.dial == nil {
		return nil, errors.New("forward: Options.DialParent is required for pac.parent")
	}
	parent, err := ReadParent(c)
	if err != nil && c.PAC.ParentFile != "" {
		return nil, err
	}
	if err != nil {
		k.log.Warn("the last copy of the company's PAC file is of no use", "err", err)
	}
	return func() { k.use(c, parent) }, nil
}

func (k *parentKeeper) use(c *configs.Config, parent *Parent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if parent == nil && k.config != nil && k.config.PAC.Parent == c.PAC.Parent {
		parent = k.parent // the same, though no copy could be kept
	}
	k.config, k.parent, k.good, k.said = c, parent, time.Now(), ""
	select {
	case k.again <- struct{}{}:
	default:
	}
}

// run looks again and again until ctx ends.
func (k *parentKeeper) run(ctx context.Context) {
	for {
		wait := k.look(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.again:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// look reads or fetches the file once and returns how long to wait for the next time.
func (k *parentKeeper) look(ctx context.Context) (wait time.Duration) {
	k.mu.Lock()
	c, before := k.config, k.parent
	k.mu.Unlock()
	if !hasParent(c) {
		return parentMost
	}
	parent, err := k.get(ctx, c)
	if ctx.Err() != nil {
		return parentLeast
	}
	if err == nil && c.PAC.Parent != "" && (before == nil || before.Charset != parent.Charset || !bytes.Equal(before.Text, parent.Text)) {
		if err := writeCopy(c, parent); err != nil {
			k.log.Warn("no copy of the company's PAC file could be kept", "err", err)
		}
	}
	return k.settle(c, parent, err)
}

func (k *parentKeeper) get(ctx context.Context, c *configs.Config) (*Parent, error) {
	if c.PAC.ParentFile != "" {
		return ReadParent(c)
	}
	return FetchParent(ctx, c, k.dial)
}

// settle takes the outcome of a look, unless the configuration has changed meanwhile. A trouble is logged once.
func (k *parentKeeper) settle(c *configs.Config, parent *Parent, err error) (wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.config != c {
		return 0
	}
	if err != nil {
		if k.said != err.Error() {
			k.said = err.Error()
			k.log.Warn("the company's PAC file can't be had; the last good one stays", "err", err, "have_one", k.parent != nil)
		}
		k.fails++
		return min(parentAgain<<min(k.fails-1, 10), parentLeast)
	}
	k.fails = 0
	if k.said != "" {
		k.said = ""
		k.log.Info("the company's PAC file is there again")
	}
	k.parent, k.good = parent, time.Now()
	return min(max(c.PAC.MaxAge, parentLeast), parentMost)
}
