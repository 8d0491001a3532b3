import io
import torch
from moex.data.source import ResidentSource
class StreamedImages(ResidentSource):
    def __init__(self, inputs, labels, *, size, resize, mean, std, device, **others):
        self.a = (inputs, labels, size, resize, mean, std, device)
    def __len__(self): return len(self.a[1])
    def batch(self, request):
        from PIL import Image
        from torchvision.transforms._presets import ImageClassification
        inputs, labels, size, resize, mean, std, device = self.a
        t = ImageClassification(crop_size=size, resize_size=resize, mean=mean, std=std)
        idx = request.indices[request.share]
        return torch.stack([t(Image.open(io.BytesIO(inputs.read(int(i)))).convert("RGB")) for i in idx]).to(device), labels[idx].to(device)
