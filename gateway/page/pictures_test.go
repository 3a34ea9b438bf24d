package page_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// TestPictures makes the manual's pictures of the pages: `make pictures` leaves them in packaging/doc.
func TestPictures(t *testing.T) {
	dir := os.Getenv("PICTURES")
	if dir == "" {
		t.Skip("skipped: PICTURES names no folder: run make pictures")
	}
	browser := chromium(t)
	base := gatewayPages(t, nil)
	p := open(t, browser, base)
	p.navigate(base + "/precall/?lang=en")
	answer := bytes.ReplaceAll(judged(t, base, "en", "", states()["warn"]), []byte("127.0.0.0/24"), []byte("10.20.3.0/24"))
	p.showResult(answer, "answer.site = 'Clinic North'; answer.place = 'site';")
	p.text("document.querySelectorAll('#result #checks details').forEach((d) => { d.open = false; })")
	p.picture(filepath.Join(dir, "precall-result.png"), 760)
	p.statusLogin(base)
	p.navigate(base + "/status/helpdesk/?code=K7QF-2M")
	p.picture(filepath.Join(dir, "precall-helpdesk.png"), 760)
}

func (p *tab) picture(file string, width int64) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	must(p.t, chromedp.Do(ctx, chromedp.EmulateViewport(width, 600)))
	light := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}}
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: light})
	must(p.t, err)
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	must(p.t, err)
	must(p.t, os.WriteFile(file, png, 0o644))
}
