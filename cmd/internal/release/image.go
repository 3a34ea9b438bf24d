package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// imageUser is the one that the program runs as in a container: no root, no name on the host.
const imageUser = 65532

// The media types of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor points at a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations"`
}

// layout is an OCI image layout that is being written as one tar file.
type layout struct {
	tar  *tar.Writer
	date time.Time
	seen map[string]bool
}

// image writes the container image for all architectures as one OCI archive: nothing in it but the program, the roots of the
// public authorities and a user.
func (r *release) image(context.Context) error {
	f, err := os.Create(r.path("hafen_" + r.pack + "_oci.tar"))
	if err != nil {
		return err
	}
	l := &layout{tar: tar.NewWriter(f), date: r.date, seen: make(map[string]bool)}
	return errors.Join(r.writeImage(l), l.tar.Close(), f.Close())
}

func (r *release) writeImage(l *layout) error {
	all := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, arch := range architectures {
		d, err := r.platformImage(l, arch)
		if err != nil {
			return err
		}
		all.Manifests = append(all.Manifests, d)
	}
	whole, err := l.json(typeIndex, all)
	if err != nil {
		return err
	}
	whole.Annotations = map[string]string{"org.opencontainers.image.ref.name": r.version}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{whole}})
	if err != nil {
		return err
	}
	return errors.Join(l.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), l.file("index.json", top))
}

// platformImage writes the layer, the configuration and the manifest of one architecture.
func (r *release) platformImage(l *layout, arch string) (descriptor, error) {
	layer, err := r.layer(arch)
	if err != nil {
		return descriptor{}, err
	}
	packed, err := gzipped(layer)
	if err != nil {
		return descriptor{}, err
	}
	layerAt, err := l.blob(typeLayer, packed)
	if err != nil {
		return descriptor{}, err
	}
	config, err := l.json(typeConfig, r.imageConfig(arch, digestOf(layer)))
	if err != nil {
		return descriptor{}, err
	}
	d, err := l.json(typeManifest, manifest{2, typeManifest, config, []descriptor{layerAt}, r.imageLabels()})
	d.Platform = &platform{arch, "linux"}
	return d, err
}

func (r *release) imageLabels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title": "hafen", "org.opencontainers.image.version": r.version,
		"org.opencontainers.image.created": r.date.Format(time.RFC3339), "org.opencontainers.image.licenses": "Apache-2.0",
	}
}

func (r *release) imageConfig(arch, layer string) any {
	return map[string]any{
		"created": r.date.Format(time.RFC3339), "architecture": arch, "os": "linux",
		"config": map[string]any{
			"User": fmt.Sprintf("%d:%d", imageUser, imageUser), "Entrypoint": []string{"/usr/bin/hafen"}, "Cmd": []string{"serve", "--config", "/etc/hafen/hafen.yaml"},
			"ExposedPorts": map[string]any{"443/tcp": map[string]any{}, "443/udp": map[string]any{}, "9443/tcp": map[string]any{}},
			"Volumes":      map[string]any{"/var/lib/hafen": map[string]any{}}, "WorkingDir": "/", "StopSignal": "SIGTERM", "Labels": r.imageLabels(),
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{layer}},
		"history": []any{map[string]any{"created": r.date.Format(time.RFC3339), "created_by": "hafen release " + r.version}},
	}
}

// layer is the file tree, as a tar file.
func (r *release) layer(arch string) ([]byte, error) {
	program, err := os.ReadFile(r.binary(arch))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	put := func(name string, mode int64, owner int, data []byte) {
		h := &tar.Header{Name: name, Mode: mode, Uid: owner, Gid: owner, ModTime: r.date, Size: int64(len(data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if data == nil {
			h.Typeflag = tar.TypeDir
		}
		err = errors.Join(err, w.WriteHeader(h))
		_, werr := w.Write(data)
		err = errors.Join(err, werr)
	}
	for _, dir := range []string{"etc/", "etc/hafen/", "etc/ssl/", "etc/ssl/certs/", "run/", "usr/", "usr/bin/", "var/", "var/lib/"} {
		put(dir, 0o755, 0, nil)
	}
	put("run/hafen/", 0o750, imageUser, nil)
	put("var/lib/hafen/", 0o750, imageUser, nil)
	put("etc/passwd", 0o644, 0, fmt.Appendf(nil, "root:x:0:0::/:/sbin/nologin\nhafen:x:%d:%d::/var/lib/hafen:/sbin/nologin\n", imageUser, imageUser))
	put("etc/group", 0o644, 0, fmt.Appendf(nil, "root:x:0:\nhafen:x:%d:\n", imageUser))
	put("etc/ssl/certs/ca-certificates.crt", 0o644, 0, publicRoots())
	put("usr/bin/hafen", 0o755, 0, program)
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}

// publicRoots are the authorities that browsers trust without a condition; the module that has them is pinned, so the same
// release has the same ones on every machine.
func publicRoots() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return out.Bytes()
}

func gzipped(data []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

func (l *layout) json(mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return l.blob(mediaType, data)
}

// blob writes one under the name of its digest, once.
func (l *layout) blob(mediaType string, data []byte) (descriptor, error) {
	d := descriptor{MediaType: mediaType, Digest: digestOf(data), Size: len(data)}
	if l.seen[d.Digest] {
		return d, nil
	}
	l.seen[d.Digest] = true
	return d, l.file("blobs/sha256/"+d.Digest[len("sha256:"):], data)
}

func (l *layout) file(name string, data []byte) error {
	h := &tar.Header{Name: name, Mode: 0o644, ModTime: l.date, Size: int64(len(data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if err := l.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(l.tar, bytes.NewReader(data))
	return err
}
