package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"hafen/configs"
	"hafen/gateway"
)

// supportBundle packs what a supporter needs: version, the effective configuration with secrets masked, status, metrics and what the
// doctor says. Every file is gone through once more for the configuration's secrets.
func supportBundle(ctx context.Context, w world, args []string) error {
	fs := flags(w, "support-bundle")
	file := fs.String("config", "", "configuration `file`")
	out := fs.String("out", "", "`file` to write; default hafen-support-DATE.tar.gz")
	patience := fs.Duration("patience", 75*time.Second, "give up the doctor after; long-polls are held for a minute")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	now := time.Now().UTC()
	if *out == "" {
		*out = "hafen-support-" + now.Format("20060102-150405") + ".tar.gz"
	}
	name, err := findConfig(*file)
	if err != nil {
		return err
	}
	b := &bundle{time: now}
	b.add("version.txt", []byte("hafen "+version+"\n"))
	cfg, err := configs.Load(name, w.stdin, w.environ)
	var problems configs.Problems
	switch {
	case errors.As(err, &problems):
		b.add("problems.txt", []byte(problems.Error()+"\n"))
	case err != nil:
		return fmt.Errorf("read the configuration: %w", err)
	default:
		b.collect(ctx, cfg, *patience)
	}
	f, err := os.OpenFile(*out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("support-bundle: %w", err)
	}
	if err := errors.Join(b.write(f), f.Close()); err != nil {
		return fmt.Errorf("support-bundle: %w", err)
	}
	fmt.Fprintf(w.stdout, "%s: %d files, no secrets; names and addresses of your network are in it\n", *out, len(b.files))
	return nil
}

// bundle is what goes into the archive.
type bundle struct {
	time  time.Time
	files []bundleFile
}

type bundleFile struct {
	name string
	text []byte
}

func (b *bundle) add(name string, text []byte) { b.files = append(b.files, bundleFile{name, text}) }

// collect asks everybody who has something to say; who fails says why in place of it.
func (b *bundle) collect(ctx context.Context, cfg *configs.Config, patience time.Duration) {
	shown, err := cfg.Show()
	b.addOr("config.yaml", shown, err)
	body, err := control(ctx, cfg.RunDir, http.MethodGet, "/api/v1/status", nil)
	running := err == nil
	b.addOr("status.json", body, err)
	metrics, err := fetchMetrics(ctx, cfg.Listen.Metrics)
	b.addOr("metrics.txt", metrics, err)
	found, err := gateway.Checkup(ctx, gateway.CheckupOptions{Config: cfg, Running: running, Patience: patience})
	if err == nil {
		report := doctorReport{Version: version, Time: b.time, Checks: found}
		report.judge()
		body, err = json.MarshalIndent(report, "", "  ")
	}
	b.addOr("doctor.json", body, err)
	rub := newEraser(cfg)
	for i := range b.files {
		b.files[i].text = rub.erase(b.files[i].text)
	}
}

func (b *bundle) addOr(name string, text []byte, err error) {
	if err != nil {
		name, text = name+".missing.txt", []byte(err.Error()+"\n")
	}
	b.add(name, text)
}

func (b *bundle) write(out io.Writer) error {
	zip := gzip.NewWriter(out)
	t := tar.NewWriter(zip)
	for _, f := range b.files {
		head := &tar.Header{Name: "hafen-support/" + f.name, Mode: 0o600, Size: int64(len(f.text)), ModTime: b.time}
		if err := t.WriteHeader(head); err != nil {
			return err
		}
		if _, err := t.Write(f.text); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), zip.Close())
}

// fetchMetrics reads the metrics of the gateway that runs here.
func fetchMetrics(ctx context.Context, addr string) ([]byte, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, errors.New("listen.metrics is off")
	}
	if host == "" || net.ParseIP(host).IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy of the environment
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the metrics answered %d", res.StatusCode)
	}
	return io.ReadAll(io.LimitReader(res.Body, 16<<20))
}
