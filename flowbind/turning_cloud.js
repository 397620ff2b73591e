// <turning-cloud packed="...">: coloured points that turn as they are dragged, or by the arrow keys.
// The attribute is base64: of n points x, y, z as int16, 32767 at the edge, then their colours as bytes.
(() => {
  if (customElements.get("turning-cloud")) return;
  const AZIMUTH = 30, ELEVATION = 28; // degrees: the view of the previews
  const FULL = 32767, STRIDE = 9; // bytes of a point
  const FARTHEST = 0.7; // share of its light that the farthest point has
  const COVER = 3.2; // discs that would just cover a sphere have 2

  class TurningCloud extends HTMLElement {
    connectedCallback() {
      if (!this.canvas) this.build();
      this.sizes = new ResizeObserver(() => this.ask());
      this.sizes.observe(this);
      // Only what is in sight is drawn: a page may have dozens.
      this.sight = new IntersectionObserver(
        (changes) => {
          this.isSeen = changes.at(-1).isIntersecting;
          this.ask();
        },
        { rootMargin: "200px" }
      );
      this.sight.observe(this);
      this.print = () => this.draw();
      addEventListener("beforeprint", this.print);
    }

    disconnectedCallback() {
      this.sizes.disconnect();
      this.sight.disconnect();
      removeEventListener("beforeprint", this.print);
    }

    build() {
      this.read(this.getAttribute("packed"));
      this.azimuth = AZIMUTH;
      this.elevation = ELEVATION;
      this.canvas = document.createElement("canvas");
      this.canvas.style.cssText =
        "display:block;width:100%;height:100%;cursor:grab;touch-action:none";
      if (getComputedStyle(this).display === "inline") this.style.display = "block";
      this.style.aspectRatio ||= "1";
      this.tabIndex = 0;
      this.title ||= "drag to turn";
      this.append(this.canvas);
      this.canvas.addEventListener("pointerdown", (e) => {
        this.canvas.setPointerCapture(e.pointerId);
        this.from = [e.clientX, e.clientY];
      });
      this.canvas.addEventListener("pointermove", (e) => {
        if (!this.from) return;
        this.turn(this.from[0] - e.clientX, e.clientY - this.from[1]);
        this.from = [e.clientX, e.clientY];
      });
      for (const end of ["pointerup", "pointercancel"])
        this.canvas.addEventListener(end, () => (this.from = null));
      const arrows = { ArrowLeft: [9, 0], ArrowRight: [-9, 0], ArrowUp: [0, -9], ArrowDown: [0, 9] };
      this.addEventListener("keydown", (e) => {
        if (!arrows[e.key]) return;
        e.preventDefault();
        this.turn(...arrows[e.key]);
      });
    }

    read(code) {
      const bytes = Uint8Array.from(atob(code), (c) => c.charCodeAt(0));
      this.count = Math.floor(bytes.length / STRIDE);
      this.places = new Int16Array(bytes.buffer, 0, 3 * this.count);
      this.colours = bytes.subarray(6 * this.count);

      // Discs as large as it takes to close the surface of a ball of this spread.
      let [squares, means] = [0, [0, 0, 0]];
      this.places.forEach((p, i) => {
        squares += (p / FULL) ** 2 / this.count;
        means[i % 3] += p / FULL / this.count;
      });
      const spread = Math.sqrt(Math.max(squares - means.reduce((s, m) => s + m * m, 0), 0));
      this.radius = (COVER * spread) / Math.sqrt(this.count);
    }

    turn(right, down) {
      this.azimuth += right * 0.6;
      this.elevation = Math.max(-90, Math.min(90, this.elevation + down * 0.6));
      this.ask();
    }

    ask() {
      if (this.asked || !this.isSeen) return;
      this.asked = requestAnimationFrame(() => {
        this.asked = null;
        this.draw();
      });
    }

    draw() {
      const side = Math.round(this.clientWidth * devicePixelRatio);
      if (!side) return;
      this.canvas.width = this.canvas.height = side;
      const pen = this.canvas.getContext("2d");
      const [a, e] = [this.azimuth, this.elevation].map((d) => (d * Math.PI) / 180);
      const [ca, sa, ce, se] = [Math.cos(a), Math.sin(a), Math.cos(e), Math.sin(e)];

      // Right, up and towards the camera, as the previews have them.
      const seen = [];
      for (let i = 0; i < this.count; i++) {
        const x = this.places[3 * i] / FULL;
        const y = this.places[3 * i + 1] / FULL;
        const z = this.places[3 * i + 2] / FULL;
        const right = ca * x + sa * y;
        const up = -sa * se * x + ca * se * y + ce * z;
        const near = sa * ce * x - ca * ce * y + se * z;
        seen.push([near, right, up, 3 * i]);
      }
      seen.sort((p, q) => p[0] - q[0]); // far to near
      const first = seen.length ? seen[0][0] : 0;
      const depth = seen.length ? seen[seen.length - 1][0] - first || 1 : 1;

      const radius = Math.max(1, (side / 2) * Math.min(0.08, this.radius));
      for (const [near, right, up, c] of seen) {
        const light = FARTHEST + (1 - FARTHEST) * ((near - first) / depth);
        const [r, g, b] = [0, 1, 2].map((k) => Math.round(light * this.colours[c + k]));
        pen.fillStyle = `rgb(${r},${g},${b})`;
        pen.beginPath();
        pen.arc((side / 2) * (1 + right), (side / 2) * (1 - up), radius, 0, 7);
        pen.fill();
      }
    }
  }
  customElements.define("turning-cloud", TurningCloud);
})();
