package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// layersAtOnce is how many layers dockerd and containerd fetch in parallel by default.
const layersAtOnce = 3

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	largest      = 4 << 20
)

// Image is one that Base, such as http://127.0.0.1:5000, serves. Redirected says whether it must redirect blobs.
type Image struct {
	Base       string `json:"base"`
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
	Redirected bool   `json:"redirected"`
}

type descriptor struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

type manifest struct {
	Config descriptor   `json:"config"`
	Layers []descriptor `json:"layers"`
}

func pullImages(job Job) Result {
	return measure(job.Clients, func(_, number int) (bool, error) {
		if number >= job.Pulls {
			return false, nil
		}
		return true, job.Images[number%len(job.Images)].pull()
	})
}

// pull does what containerd does: HEAD of the tag, the manifest by its digest, the config, then the layers. Every pull
// has its own connections, as every node has. An error says that the server refused or broke off.
func (image Image) pull() error {
	client := newClient(layersAtOnce)
	defer client.CloseIdleConnections()
	digest, err := image.resolve(client)
	if err != nil {
		return err
	}
	body, err := image.fetch(client, "manifests", descriptor{Digest: digest, Size: largest}, false)
	if err != nil {
		return err
	}
	var parsed manifest
	if err := json.Unmarshal(body, &parsed); err != nil {
		wrong(image.url("manifests", digest), "%v", err)
	}
	if len(parsed.Layers) == 0 {
		wrong(image.url("manifests", digest), "no layers")
	}
	if _, err := image.fetch(client, "blobs", parsed.Config, true); err != nil {
		return err
	}
	return image.fetchAll(client, parsed.Layers)
}

func (image Image) resolve(client *http.Client) (string, error) {
	url := image.url("manifests", image.Tag)
	response, err := get(client, http.MethodHead, url, manifestType)
	if err != nil {
		return "", err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: status %d", url, response.StatusCode)
	}
	if found := response.Header.Get("Docker-Content-Digest"); found != image.Digest {
		wrong(url, "digest %q instead of %s", found, image.Digest)
	}
	return image.Digest, nil
}

func (image Image) fetchAll(client *http.Client, layers []descriptor) error {
	next := counter()
	failures := make(chan error, layersAtOnce)
	var all sync.WaitGroup
	for worker := 0; worker < layersAtOnce; worker++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := next(); number < len(layers); number = next() {
				if _, err := image.fetch(client, "blobs", layers[number], true); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	all.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

// fetch returns the content, and checks its digest. A blob must also have its size.
func (image Image) fetch(client *http.Client, kind string, wanted descriptor, isBlob bool) ([]byte, error) {
	url := image.url(kind, wanted.Digest)
	response, err := get(client, http.MethodGet, url, manifestType)
	if err != nil {
		return nil, err
	}
	if isBlob && response.StatusCode < 400 && isRedirect(response) != image.Redirected {
		wrong(url, "status %d although redirected is %t", response.StatusCode, image.Redirected)
	}
	if isRedirect(response) {
		location := response.Header.Get("Location")
		drain(response)
		if response, err = get(client, http.MethodGet, location, ""); err != nil {
			return nil, err
		}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, wanted.Size+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d", url, response.StatusCode)
	}
	if isBlob && int64(len(body)) != wanted.Size {
		wrong(url, "%d bytes instead of %d", len(body), wanted.Size)
	}
	sum := sha256.Sum256(body)
	if found := "sha256:" + hex.EncodeToString(sum[:]); found != wanted.Digest {
		wrong(url, "content of %s", found)
	}
	return body, nil
}

// drain reads what is left, so that the connection is used again.
func drain(response *http.Response) {
	io.Copy(io.Discard, io.LimitReader(response.Body, largest))
	response.Body.Close()
}

func (image Image) url(kind, name string) string {
	return image.Base + "/v2/" + image.Repository + "/" + kind + "/" + name
}
