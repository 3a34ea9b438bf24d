package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

// bom is a CycloneDX 1.6 bill of materials, as far as a Go program has something to say in it.
type bom struct {
	Format      string       `json:"bomFormat"`
	SpecVersion string       `json:"specVersion"`
	Serial      string       `json:"serialNumber"`
	Version     int          `json:"version"`
	Metadata    bomMetadata  `json:"metadata"`
	Components  []component  `json:"components"`
	Depends     []dependency `json:"dependencies"`
}

type bomMetadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hashSum  `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hashSum struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// billsOfMaterials reads back from each binary what is linked into it, which is more than go.mod could tell.
func (r *release) billsOfMaterials(context.Context) error {
	for _, arch := range architectures {
		b, err := r.billOf(r.binary(arch))
		if err != nil {
			return err
		}
		text, err := json.MarshalIndent(b, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(r.binary(arch)+".cdx.json", append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *release) billOf(binary string) (*bom, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	sum, err := sumOf(binary)
	if err != nil {
		return nil, err
	}
	id := sha256.New()
	_, _ = io.WriteString(id, "hafen bill of materials "+sum)
	u := id.Sum(nil)
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // a UUID of version 8, made from the binary: the same binary, the same bill
	self := component{
		Type: "application", Ref: "hafen", Name: "hafen", Version: r.version,
		Hashes: []hashSum{{"SHA-256", sum}}, Properties: settings(info.Settings),
	}
	b := &bom{
		Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Serial:   fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16]),
		Metadata: bomMetadata{Timestamp: r.date.Format(time.RFC3339), Component: self},
	}
	add := func(c component) {
		b.Components = append(b.Components, c)
	}
	version := strings.TrimPrefix(info.GoVersion, "go")
	add(component{Type: "library", Ref: "pkg:golang/std@" + version, Name: "std", Version: version, PURL: "pkg:golang/std@" + version})
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		purl := "pkg:golang/" + m.Path + "@" + m.Version
		add(component{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl, Properties: []property{{"go:sum", m.Sum}}})
	}
	d := dependency{Ref: "hafen"}
	for _, c := range b.Components {
		d.DependsOn = append(d.DependsOn, c.Ref)
	}
	b.Depends = []dependency{d}
	return b, nil
}

// settings are how the binary was built, where that is of use to somebody who wants to build it again.
func settings(all []debug.BuildSetting) (out []property) {
	for _, s := range all {
		switch s.Key {
		case "CGO_ENABLED", "GOARCH", "GOOS", "GOAMD64", "GOARM64", "-trimpath", "-ldflags":
			out = append(out, property{"go:build:" + s.Key, s.Value})
		}
	}
	return out
}
